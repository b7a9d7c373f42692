"""rsd-fast corrupt: a data set of observations from clean images; or what noise observations hold."""

from typing import Any

import click

from . import options


@click.command()
@click.option("--data", metavar="SRC", help="Clean images: folder, .zip, .npy, .npz, idx, .h5, or digits.")
@click.option(
    "--corruption", metavar="SPEC", default="identity", show_default=True, help=f"Operator. {options.SPEC_HELP}"
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
def corrupt(estimate: str | None, as_json: bool, **given: Any) -> None:
    """Write a data set of observations.

    y = A(x) + sigma_obs noise of every image x: exactly what --simulate would train on.

    An npz keeps the observations in float32, as `images` [N, C, H, W], beside the `labels`, the `mask` of masked ones
    and, where it differs, the `sigma_obs` of each. A folder of 8-bit PNGs, masks beside them, clips noise that leaves
    [-1, 1], which biases what is learned from it: meant for looking at. k-space goes to an .h5 as fastMRI's.

    With --estimate SRC, SRC holds observations: prints the standard deviation of their noise and its 95 % interval.
    """
    if estimate is not None:
        others = [given[name] for name in ("data", "out", "preview", "sigma_obs", "clean_share")]
        if any(others) or given["corruption"] != "identity":
            raise click.UsageError("--estimate: only looks at observations; it goes without the other options")
        print_estimate(estimate, as_json)
        return
    if as_json:
        raise click.UsageError("--json: goes with --estimate")
    for name in ("data", "out"):
        if given[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    write_observations(**given)


def print_estimate(path: str, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from rsd_fast.settings.noise import estimate_noise

    found = estimate_noise(path)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo(f"sigma_obs {found.sigma:.4g}, 95 % interval {found.low:.4g} to {found.high:.4g}")


def write_observations(
    data: str,
    corruption: str,
    sigma_obs: Any,
    clean_share: float | None,
    out: str,
    preview: str | None,
    seed: int,
    device: str,
) -> None:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor

    from rsd_fast import corruptions, pictures
    from rsd_fast.corruptions import NoiseLevels
    from rsd_fast.data import ObservedDataset, open_source, to_uint8, write_h5, write_npz, write_png_folder
    from rsd_fast.settings import resolve_device

    from .output import refuse_existing
    from .progress import counted
    from .usage import usage_errors

    refuse_existing(out, (".npz", ".h5"))
    if isinstance(sigma_obs, str):
        raise click.UsageError(f"--sigma-obs: expected a number or LEAST:GREATEST, got {sigma_obs}")
    least, greatest = sigma_obs if isinstance(sigma_obs, tuple) else (None, sigma_obs)
    if (least is not None or clean_share) and not out.endswith(".npz"):
        raise click.UsageError("--out: only an .npz says the noise level of each image")
    with usage_errors():
        operator = corruptions.parse(corruption)
        if out.endswith(".h5") != operator.measures_kspace:
            wanted = "an .h5 file" if operator.measures_kspace else "an .npz file or a folder"
            raise click.UsageError(f"--out: observations of '{operator.name}' go to {wanted}, got {out}")
        source = open_source(data)
        if not source.kspace:
            operator.observation_shape(source.image_shape)
        levels = NoiseLevels(highest=greatest, lowest=least, clean_share=clean_share or 0.0)
        dataset = ObservedDataset(source, corruption=operator, sigma_obs=levels, seed=seed, simulate=True)
        place = resolve_device(device)

    count = len(dataset)
    batches = torch.arange(count).split(1024)

    def observe(index: Tensor) -> Tensor:
        return dataset.observe(index, place)[0].y.cpu()

    def together(read: Callable[[Tensor], Tensor | None]) -> np.ndarray | None:
        parts = [part for part in map(read, batches) if part is not None]  # type: ignore[arg-type]
        return torch.cat(parts).cpu().numpy() if parts else None

    drawn = dataset.operator(torch.arange(1), place).draw
    mask = None if drawn is None else together(lambda index: dataset.operator(index, place).draw.mask)  # type: ignore[union-attr]
    levels_differ = isinstance(levels.of(torch.arange(1), seed), Tensor)
    sigma = together(lambda index: levels.of(index, seed)) if levels_differ else None  # type: ignore[arg-type, return-value]
    observations = counted(map(observe, batches), count, "corrupt")
    if out.endswith(".npz"):
        write_npz(out, observations, labels=source.labels, count=count, mask=mask, sigma_obs=sigma)
    elif out.endswith(".h5"):
        bank = dataset.corruption.bank  # type: ignore[attr-defined]
        maps = drawn.maps if bank is None or bank.maps is None else bank.maps  # type: ignore[union-attr]
        if isinstance(maps, Tensor):
            maps = maps.cpu().numpy()
        rss = together(lambda index: dataset.clean(index, place).norm(dim=1))
        write_h5(out, observations, count=count, mask=mask, maps=maps, reconstruction_rss=rss)
    else:
        labels = None if source.labels is None else source.labels.tolist()
        write_png_folder(out, (to_uint8(y) for y in observations), labels, masks=mask)
    if preview:
        shown = torch.arange(min(8, count))
        rows = [("clean", dataset.clean(shown)), ("observed", dataset.pictures(shown))]
        pictures.save(pictures.labelled_rows(rows), Path(preview))
