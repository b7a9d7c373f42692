"""rsd-fast sample: images from a run."""

import click

from . import options


@click.command()
@click.option("--run", "path", metavar="RUN|FILE", type=click.Path(), required=True, help="Run, checkpoint or file.")
@click.option("--out", metavar="DIR|FILE.npz", type=click.Path(), required=True, help="Folder of PNGs, or npz file.")
@options.num
@options.heun_steps
@options.truncate
@options.batch_out
@options.seed
@options.precision
@options.compile_network
@options.cuda_graphs
@options.device
@options.debug
def sample(
    path: str,
    out: str,
    num: int,
    steps: int,
    truncate: bool,
    batch: int,
    seed: int,
    precision: str | None,
    compile: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Draw images from a generator or a teacher.

    A generator makes them in one step, a teacher by Heun's method. Image i is a function of (seed, i). An npz holds
    `images`, uint8 [N, C, H, W]; complex ones (MRI) are float32 [N, 2, H, W] there, and magnitudes in a folder.
    """
    from torch import Tensor

    from rsd_fast.data import magnitude, to_uint8, write_npz, write_png_folder
    from rsd_fast.sampler import Sampler
    from rsd_fast.settings import resolve_device, resolve_precision

    from .output import refuse_existing
    from .progress import counted, in_processes
    from .usage import usage_errors

    refuse_existing(out)
    device = resolve_device(device)
    with in_processes(device) as first, usage_errors():
        sampler = Sampler(
            path,
            device,
            steps=steps,
            truncate=truncate,
            precision=resolve_precision(precision, device),
            compile=compile,
            cuda_graphs=cuda_graphs,
        )
        npz, is_complex = out.endswith(".npz"), sampler.config.observations.image_shape[0] == 2

        def finish(x: Tensor) -> Tensor:
            if is_complex and npz:
                return x.float().clamp(-1, 1)
            return to_uint8(magnitude(x) if is_complex else x)

        images = counted(sampler.batches(num, seed, batch, finish), num, "sample")
        if not first:
            for _ in images:
                pass
        elif npz:
            write_npz(out, images, count=num)
        else:
            write_png_folder(out, images)
