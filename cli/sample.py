"""rsd-fast sample: images from a run."""

from typing import Any

import click

from . import options


@click.command()
@click.option("--run", metavar="RUN|FILE", type=click.Path(), required=True, help="Run, checkpoint or file.")
@click.option("--out", metavar="DIR|FILE.npz", type=click.Path(), required=True, help="Folder of PNGs, or npz file.")
@options.num
@click.option(
    "--class",
    "class_label",
    metavar="N",
    type=int,
    help="Class of every sample of a conditional run: 0, 1, ...  [default: drawn for each]",
)
@options.heun_steps
@options.truncate
@options.batch_out
@options.seed
@options.precision
@options.compile_network
@options.cuda_graphs
@options.device
@options.debug
def sample(run: str, num: int, out: str, **settings: Any) -> None:
    """Draw images from a generator or a teacher.

    A generator makes them in one step, a teacher by Heun's method. Image i is a function of (seed, i). An npz holds
    `images`, uint8 [N, C, H, W]; complex ones (MRI) are float32 [N, 2, H, W] there, and magnitudes in a folder. Classes
    of a conditional run are written as `labels` of the npz, or as dataset.json in the folder.
    """
    from rsd_fast.api.sample import sample as draw_samples

    from .usage import usage_errors

    with usage_errors():
        draw_samples(run, num, out=out, **settings)
