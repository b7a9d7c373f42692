"""rsd-fast pretrain: a teacher from observations."""

from typing import Any

import click

from . import options


@click.command()
@options.observation
@options.run
@click.option(
    "--objective",
    type=click.Choice(["auto", "standard", "tweedie", "ambient", "fourier"]),
    default="auto",
    show_default=True,
    help="What the teacher minimises; auto: ambient for masks, fourier for k-space, else tweedie where there is noise.",
)
@click.option(
    "--sigma-distribution",
    type=click.Choice(["truncated", "clamped"]),
    help="Noise levels below sigma_obs are not drawn, or raised to it as published code does.  [default: truncated]",
)
@click.option(
    "--delta",
    type=options.FRACTION,
    help="ambient, fourier: probability that an observed pixel or column is hidden from the network.  [default: 0.1]",
)
@click.option(
    "--masked-loss",
    type=click.Choice(["observed", "kept"]),
    help="ambient: the loss is on all observed pixels, or on those alone that the network sees.  [default: observed]",
)
@click.option("--consistency", type=options.AT_LEAST_0, help="Weight of the consistency term.  [default: 0, without]")
@click.option("--consistency-steps", type=options.COUNT, help="Sampler steps in it.  [default: 2]")
@click.option("--consistency-primes", type=options.COUNT, help="Runs that it averages.  [default: 2]")
@click.option("--p-mean", type=options.NUMBER, help="Mean of ln sigma in training.  [default: -1.2]")
@click.option("--p-std", type=options.POSITIVE, help="Standard deviation of ln sigma.  [default: 1.2]")
@click.option("--cond/--no-cond", default=None, help="Condition on the data's labels.  [default: no-cond]")
@click.option(
    "--augment-probability",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Of each of EDM's augmentations (scale, rotation, ...), which the network is told of; for clean images alone.",
)
@options.network
@options.training
@options.monitoring
def pretrain(dry_run: bool, **settings: Any) -> None:
    """Train a teacher on corrupted images alone.

    Without --simulate the images of --data are the observations, and --corruption and --sigma-obs say how they came
    about. With it they are clean, and each is corrupted once, as a function of (seed, index).
    """
    from rsd_fast.api import training
    from rsd_fast.config import to_json
    from rsd_fast.settings import resolve_pretrain

    if dry_run:
        click.echo(to_json(resolve_pretrain(settings).config), nl=False)
    else:
        click.echo(training.pretrain(**settings).path)
