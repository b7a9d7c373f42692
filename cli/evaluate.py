"""rsd-fast evaluate: distances of a run's samples, or of a set of images, to a reference."""

from typing import Any

import click

from . import options

KEYS = {
    "observed": ("observations", "corruption", "sigma_obs", "simulate"),
    "sampled": ("steps", "truncate", "precision", "compile", "cuda_graphs"),
    "compared": ("features", "features_weights", "batch", "cache"),
}


@click.command()
@click.option("--run", "path", metavar="RUN|DIR|FILE.npz", required=True, help="A run, or images already drawn.")
@click.option(
    "--reference",
    metavar="SRC",
    help="Clean images, or an npz of published mu and sigma for fid; for proximal metrics alone, as the run's --data.",
)
@click.option("--observations", metavar="SRC", help="Real observations.  [default: those the run was trained on]")
@click.option(
    "--metrics",
    default="pixel-fd",
    show_default=True,
    help="Comma-separated: pixel-fd, fid, kid, is, precision, recall, each but is also with proximal- before it; or, "
    "of images and the truth of each, psnr, ssim, lpips.",
)
@click.option(
    "--features",
    metavar="NAME",
    help="Network of fid, kid, is, precision and recall: inception-v3-compat; efficientnet-lite0 and pixels, which "
    "need no download; vgg16, clip-vit-b-32, dinov2-vit-s-14 and the others of torch-fidelity.  "
    "[default: inception-v3-compat]",
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
def evaluate(metrics: str, json_path: str | None, device: str, precision: str | None, **given: Any) -> None:
    """Measure how far samples are from a reference.

    fid, kid, is, precision and recall are torch-fidelity's; pixel-fd is the Frechet distance of pixels, for small
    images. Proximal metrics need no clean image: they corrupt the samples as the data was and compare them with the
    observations. Of distances lower is better; compare values of equal --num and features only. Samples are drawn once
    for all metrics; run again after a crash, the command goes on where it was.
    """
    import json
    from dataclasses import asdict

    from rsd_fast import files
    from rsd_fast.evaluation import HowCompared, HowObserved, HowSampled, Stopwatch, evaluate_path
    from rsd_fast.evaluation.runs import is_run
    from rsd_fast.settings import resolve_device, resolve_precision

    from .progress import in_processes
    from .usage import usage_errors

    device = resolve_device(device)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    if precision is not None and not is_run(given["path"]):
        raise click.UsageError(f"--precision: {given['path']} is no run, but a set of images")
    given["precision"] = resolve_precision(precision, device)
    parts: dict[str, Any] = {part: {key: given.pop(key) for key in keys} for part, keys in KEYS.items()}
    watch = Stopwatch()
    with in_processes(device) as first, usage_errors():
        results = evaluate_path(
            names,
            given.pop("path"),
            device=device,
            observed=HowObserved(**parts["observed"]),
            sampled=HowSampled(**parts["sampled"]),
            compared=HowCompared(**parts["compared"], progress=True, watch=watch),
            **given,
        )
        if not first:
            return
        for result in results:
            error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
            against = "" if result.reference is None else f", reference {result.reference}"
            floor = "" if result.floor is None else f", of as many real ones {result.floor:.4g}"
            click.echo(
                f"{result.metric:<18} {f'{result.value:.4f}{error}':>18}   {result.num} samples{against}, "
                f"{result.features}{floor}"
            )
        if json_path:
            files.write_text(json_path, json.dumps([asdict(result) for result in results], indent=2) + "\n")
        click.echo("seconds: " + ", ".join(f"{stage} {s:.1f}" for stage, s in watch.seconds.items()), err=True)
