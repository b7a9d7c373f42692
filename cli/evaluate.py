"""rsd-fast evaluate: distances of a run's samples, or of a set of images, to a reference."""

from typing import TYPE_CHECKING, Any

import click

from rsd_fast.evaluation import metrics as known

from . import options

if TYPE_CHECKING:
    from rsd_fast.evaluation import Evaluation

SETS = [name for name, metric in known.METRICS.items() if isinstance(metric, known.SetMetric)]
PAIRS = known.names(known.PairMetric)
LONE = [name for name in SETS if not known.METRICS[name].proximal]


@click.command(
    epilog="\b\nMetrics:\n" + "\n".join(f"  {name:<10} {metric.about}" for name, metric in known.METRICS.items())
)
@click.option("--run", "path", metavar="RUN|DIR|FILE.npz", required=True, help="A run, or images already drawn.")
@click.option(
    "--reference",
    metavar="SRC",
    help="Clean images, or an npz of published mu and sigma for fid; of only proximal metrics, as the run's --data.",
)
@click.option("--observations", metavar="SRC", help="Real observations.  [default: those the run was trained on]")
@click.option(
    "--metrics",
    default="pixel-fd",
    show_default=True,
    help=f"Comma-separated: {', '.join(SETS)}, each but {known.listed(LONE)} also with {known.PROXIMAL} before it; "
    f"or, of images and the truth of each, {', '.join(PAIRS)}.",
)
@click.option(
    "--features",
    metavar="NAME",
    help=f"Network of {known.listed(known.of_networks())}: {known.INCEPTION}; efficientnet-lite0 and pixels, which "
    "need no download; vgg16, clip-vit-b-32, dinov2-vit-s-14 and the others of torch-fidelity.  "
    f"[default: {known.INCEPTION}]",
)
@click.option("--features-weights", metavar="FILE", type=click.Path(), help="Its weights, in place of a download.")
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
@click.option(
    "--cache/--no-cache",
    default=True,
    help="Keep features of references, and of samples until the end, in RSD_FAST_CACHE or ~/.cache/rsd-fast.  "
    "[default: yes]",
)
@click.option("--json", "json_path", metavar="FILE", type=click.Path(), help="Write the results there, too.")
@options.debug
def evaluate(path: str, json_path: str | None, **settings: Any) -> None:
    """Measure how far samples are from a reference.

    Metrics of a network's features are torch-fidelity's; pixel-fd is the Frechet distance of pixels, for small
    images. Proximal metrics need no clean image: they corrupt the samples as the data was and compare them with the
    observations. Of distances lower is better; compare only values of equal --num and features. Samples are drawn once
    for all metrics; run again after a crash, the command goes on where it was.
    """
    import json
    from dataclasses import asdict

    import rsd_fast
    from rsd_fast import files, processes
    from rsd_fast.evaluation import Stopwatch

    from .usage import usage_errors

    watch = Stopwatch()
    with usage_errors():
        results = rsd_fast.evaluate(path, **settings, progress=True, watch=watch)
    if processes.rank() != 0:
        return
    for result in results:
        click.echo(line(result))
    if json_path:
        files.write_text(json_path, json.dumps([asdict(result) for result in results], indent=2) + "\n")
    click.echo("seconds: " + ", ".join(f"{stage} {s:.1f}" for stage, s in watch.seconds.items()), err=True)


def line(result: "Evaluation") -> str:
    """A result for a person."""
    error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    against = "" if result.reference is None else f", reference {result.reference}"
    floor = "" if result.floor is None else f", of as many real ones {result.floor:.4g}"
    value = f"{result.value:.4f}{error}"
    return f"{result.metric:<18} {value:>18}   {result.num} samples{against}, {result.features}{floor}"
