"""rsd-fast demo: both stages on the bundled digits."""

from pathlib import Path

import click

from . import options


@click.command()
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="rsd-fast-demo",
    show_default=True,
    help="Folder of the results.",
)
@options.seed
@options.precision
@options.device
@options.debug
def demo(out: Path, seed: int, precision: str | None, device: str) -> None:
    """Learn clean digits from noisy ones, in minutes.

    Both stages on 1,797 handwritten 8x8 digits seen only with noise of standard deviation 0.5. Writes a picture of
    the result, report.png, summary.json, and in each run's folder report.html, which says whether it worked; prints how
    far each kind of sample is from the clean digits.
    """
    from rsd_fast.demo import run_demo
    from rsd_fast.settings import resolve_device, resolve_precision

    device = resolve_device(device)
    result = run_demo(out, seed=seed, device=device, precision=resolve_precision(precision, device))
    click.echo(result.table())
    click.echo(f"\nPicture: {out / 'report.png'}   Report: {out / 'generator' / 'report.html'}")
