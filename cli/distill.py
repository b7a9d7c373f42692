"""rsd-fast distill: a one-step generator from a teacher."""

from typing import Any

import click

from . import options


@click.command()
@click.option("--teacher", metavar="RUN|FILE", type=click.Path(), help="Run of rsd-fast pretrain, or its model file.")
@options.run
@click.option("--loss", type=click.Choice(["sid", "dmd", "sds"]), help="Of the generator.  [default: sid]")
@click.option("--alpha", type=options.AT_LEAST_0, help="SiD's alpha.  [default: 1.2]")
@click.option("--tmax", type=options.POSITIVE, help="Thousandths of the sampler's grid to draw from.  [default: 800]")
@click.option("--sigma-init", type=options.POSITIVE, help="Noise level the generator starts at.  [default: 2.5]")
@click.option("--sigma-min", type=options.POSITIVE, help="Least noise level of the grid.  [default: 0.002]")
@click.option("--sigma-max", type=options.POSITIVE, help="Greatest noise level of the grid.  [default: 80]")
@click.option("--rho", type=options.POSITIVE, help="Exponent of the grid.  [default: 7]")
@click.option("--fake-lr", type=options.POSITIVE, help="Adam's learning rate for the fake score.")
@click.option("--fake-beta1", type=options.FRACTION, help="Adam's first decay for the fake score.  [default: 0]")
@click.option(
    "--generator-loss-scale",
    type=options.POSITIVE,
    help="Factor of the generator's loss, which matters to Adam's epsilon and to clipping alone.  [default: 100]",
)
@click.option(
    "--reuse-batch/--no-reuse-batch",
    default=None,
    help="One batch of the generator's images for both phases: a network pass in eleven less, more memory, and fake "
    "score and generator learn from the same images.  [default: no]",
)
@click.option(
    "--concurrent-scores/--no-concurrent-scores",
    default=None,
    help="Evaluate teacher and fake score on two CUDA streams.  [default: no]",
)
@options.training
@options.monitoring
def distill(dry_run: bool, **settings: Any) -> None:
    """Distil a teacher into a one-step generator.

    Learns from no data: what the teacher observed, and how it was corrupted, is in the teacher's own config. The
    observations serve to evaluate checkpoints alone.
    """
    from rsd_fast.api import training
    from rsd_fast.config import to_json
    from rsd_fast.settings import resolve_distill

    if dry_run:
        click.echo(to_json(resolve_distill(settings).config), nl=False)
    else:
        click.echo(training.distill(**settings).path)
