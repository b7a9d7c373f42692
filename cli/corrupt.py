"""rsd-fast corrupt: a data set of observations from clean images; or what noise observations hold."""

from typing import Any

import click

from . import options
from .listed_help import ListedHelpOption


@click.command()
@click.option("--data", cls=ListedHelpOption, metavar="SRC", help="Clean images: {sources}.")
@click.option(
    "--corruption",
    cls=ListedHelpOption,
    metavar="SPEC",
    default="identity",
    show_default=True,
    help="Operator A: {operators}.",
)
@click.option(
    "--sigma-obs",
    type=options.NoiseLevel(),
    metavar="S",
    default=0.0,
    show_default=True,
    help="Standard deviation of the added noise, images in [-1, 1]; LEAST:GREATEST draws one for each image.",
)
@options.clean_share
@click.option(
    "--out",
    metavar="DST",
    type=click.Path(),
    help="DST.npz: float32, masks, noise levels; DST.h5: k-space; a folder: 8-bit PNGs.",
)
@click.option("--preview", metavar="FILE.png", type=click.Path(), help="Picture of clean images over observations.")
@click.option("--estimate", metavar="SRC", help="Instead: estimate the noise of these observations.")
@options.seed
@options.device
@options.json_flag
@options.debug
def corrupt(estimate: str | None, as_json: bool, **settings: Any) -> None:
    """Write a data set of observations.

    y = A(x) + sigma_obs noise of every image x: exactly what --simulate would train on.

    An npz keeps the observations in float32, as `images` [N, C, H, W], beside the `labels`, the `mask` of masked ones
    and, where it differs, the `sigma_obs` of each. A folder of 8-bit PNGs, masks beside them, clips noise that leaves
    [-1, 1], which biases what is learned from it: meant for looking at. k-space goes to an .h5 as fastMRI's.

    With --estimate SRC, SRC holds observations: prints the standard deviation of their noise and its 95 % interval.
    """
    if estimate is not None:
        others = [settings[name] for name in ("data", "out", "preview", "sigma_obs", "clean_share")]
        if any(others) or settings["corruption"] != "identity":
            raise click.UsageError("--estimate: only looks at observations; it goes without the other options")
        print_estimate(estimate, as_json)
        return
    if as_json:
        raise click.UsageError("--json: goes with --estimate")
    for name in ("data", "out"):
        if settings[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    from rsd_fast.api.corrupt import corrupt as write_observations

    from .usage import usage_errors

    with usage_errors():
        write_observations(**settings)


def print_estimate(path: str, as_json: bool) -> None:
    """The noise of the observations at `path`, on stdout."""
    import json
    from dataclasses import asdict

    from rsd_fast.api.corrupt import estimate_noise

    estimate = estimate_noise(path)
    if as_json:
        click.echo(json.dumps(asdict(estimate), indent=2))
    else:
        click.echo(f"sigma_obs {estimate.sigma:.4g}, 95 % interval {estimate.low:.4g} to {estimate.high:.4g}")
