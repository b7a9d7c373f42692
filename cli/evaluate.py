"""rsd-fast evaluate: distances of a run's samples, or of a set of images, to a reference."""

from typing import Any

import click

from . import options


@click.command()
@click.option("--run", "path", metavar="RUN|DIR|FILE.npz", required=True, help="A run, or images already drawn.")
@click.option("--reference", metavar="SRC", help="Clean images; for proximal metrics alone, as the run's --data.")
@click.option("--observations", metavar="SRC", help="Real observations.  [default: those the run was trained on]")
@click.option("--metrics", default="pixel-fd", show_default=True, help="Comma-separated: pixel-fd, proximal-pixel-fd.")
@click.option("--corruption", metavar="SPEC", help="For proximal metrics of images that are not a run's.")
@click.option("--sigma-obs", type=options.AT_LEAST_0, metavar="S", help="Likewise.")
@click.option("--simulate", is_flag=True, help="--observations are clean images, to be corrupted first.")
@click.option(
    "--num",
    type=click.IntRange(min=2),
    help="Samples to draw, or images to use.  [default: the reference's number]",
)
@options.heun_steps
@options.truncate
@options.batch_out
@options.seed
@options.precision
@options.compile_network
@options.cuda_graphs
@options.device
@click.option("--json", "json_path", metavar="FILE", type=click.Path(), help="Write the results there, too.")
@options.debug
def evaluate(metrics: str, json_path: str | None, device: str, precision: str | None, **given: Any) -> None:
    """Measure how far samples are from a reference.

    Frechet distances in pixel space, for small images. pixel-fd compares samples with clean images. proximal-pixel-fd
    needs none: it corrupts the samples as the data was and compares them with the observations. Lower is better;
    compare values of equal --num only.
    """
    import json
    from dataclasses import asdict

    from rsd_fast import files
    from rsd_fast.evaluation import evaluate_path

    from .progress import in_processes
    from .resolve import resolve_device, resolve_precision, usage_errors

    device = resolve_device(device)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    with in_processes(device) as first, usage_errors():
        results = evaluate_path(
            names, given.pop("path"), device=device, precision=resolve_precision(precision, device), **given
        )
        if not first:
            return
        if json_path:
            files.write_text(json_path, json.dumps([asdict(result) for result in results], indent=2) + "\n")
        for result in results:
            click.echo(f"{result.metric:<18} {result.value:10.4f}   {result.num} samples, reference {result.reference}")
