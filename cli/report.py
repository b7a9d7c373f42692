"""rsd-fast report: one page that says whether a run worked, and shows why."""

import click

from . import options


@click.command()
@click.argument("run", metavar="RUN", type=click.Path())
@click.option("--out", metavar="FILE.html", type=click.Path(), help="The page.  [default: RUN/report.html]")
@click.option("--png", metavar="FOLDER", type=click.Path(), help="Write the figures there, too, as PNG files.")
@options.seed
@options.device
@options.debug
def report(run: str, out: str | None, png: str | None, seed: int, device: str) -> None:
    """Write a page about a run: did it work, and how can one tell?

    One HTML file that needs no network, with the verdict, samples over training, distances, losses, signals of
    convergence, the observations nearest to samples, and all measurements with what they were computed from.
    """
    import rsd_fast

    from .usage import usage_errors

    with usage_errors():
        written = rsd_fast.report(run, out=out, png=png, seed=seed, device=device)
    click.echo(f"{written.headline}\n{written.path}")
