"""rsd-fast corrupt: a data set of observations from clean images."""

import click

from . import options


@click.command()
@click.option("--data", metavar="SRC", required=True, help="Clean images: folder, .zip, .npy, .npz, idx, or digits.")
@click.option("--corruption", metavar="SPEC", default="identity", show_default=True, help="Operator.")
@click.option(
    "--sigma-obs",
    type=options.AT_LEAST_0,
    metavar="S",
    default=0.0,
    show_default=True,
    help="Standard deviation of the added noise, images in [-1, 1].",
)
@click.option("--out", metavar="DST", type=click.Path(), required=True, help="DST.npz: float32; a folder: 8-bit PNGs.")
@click.option("--preview", metavar="FILE.png", type=click.Path(), help="Picture of clean images over observations.")
@options.seed
@options.device
@options.debug
def corrupt(
    data: str, corruption: str, sigma_obs: float, out: str, preview: str | None, seed: int, device: str
) -> None:
    """Write a data set of observations.

    y = A(x) + sigma_obs noise of every image x: exactly what --simulate would train on.

    An npz keeps the observations in float32, as `images` [N, C, H, W], beside the `labels`. A folder of 8-bit PNGs
    clips noise that leaves [-1, 1], which biases what is learned from it: meant for looking at.
    """
    from pathlib import Path

    import torch

    from rsd_fast import corruptions, pictures
    from rsd_fast.data import ObservedDataset, open_source, to_uint8, write_npz, write_png_folder
    from rsd_fast.evaluation.metrics import in_batches

    from .output import refuse_existing
    from .progress import counted
    from .resolve import resolve_device, usage_errors

    refuse_existing(out)
    with usage_errors():
        operator = corruptions.parse(corruption)
        source = open_source(data)
        operator.observation_shape(source.image_shape)
        dataset = ObservedDataset(source, corruption=operator, sigma_obs=sigma_obs, seed=seed, simulate=True)
        place = resolve_device(device)
    observations = counted(
        in_batches(len(dataset), lambda index: dataset.batch(index, place)[0].cpu()), len(dataset), "corrupt"
    )
    if out.endswith(".npz"):
        write_npz(out, observations, labels=source.labels, count=len(dataset))
    else:
        labels = None if source.labels is None else source.labels.tolist()
        write_png_folder(out, (to_uint8(y) for y in observations), labels)
    if preview:
        shown = torch.arange(min(8, len(dataset)))
        rows = [("clean", source.tensor(shown)), ("observed", dataset.batch(shown)[0])]
        pictures.save(pictures.labelled_rows(rows), Path(preview))
