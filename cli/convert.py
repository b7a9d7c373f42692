"""rsd-fast convert: published checkpoints to ours, and ours to what others open."""

from typing import Any

import click

from . import options


@click.command()
@click.argument("source", metavar="FILE|RUN", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path())
@click.option(
    "--to",
    type=click.Choice(["run", "edm-state-dict", "onnx", "torch-export"]),
    default="run",
    show_default=True,
    help="run: a folder with model.safetensors and config.json. Of a RUN: a state dict with EDM's names (.pt or "
    ".safetensors); its one-step generator as an ONNX file or torch.export program (.pt2).",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "denoiser", "generator"]),
    help="What the network is; SiD's and RSD's `ema` is a generator.  [default: auto, by the key]",
)
@click.option("--key", help="Where in the file the network is.  [default: the first of G_ema, ema, G, net, ...]")
@click.option(
    "--corruption",
    metavar="SPEC",
    help="Of the observations that the network was trained on, as for pretrain.  [default: identity]",
)
@click.option("--sigma-obs", type=options.AT_LEAST_0, metavar="S", help="Their noise.  [default: 0]")
@click.option("--sigma-init", type=options.POSITIVE, help="Noise level a generator starts at.  [default: 2.5]")
@click.option(
    "--preconditioning",
    type=click.Choice(["edm", "vp", "ve"]),
    help="Of a bare state dict; a module says itself.  [default: edm]",
)
@click.option("--image-width", type=options.COUNT, metavar="N", help="Of images that are not square.")
@click.option("--preset", metavar="P", help="Default settings of a later distill.  [default: by size]")
@options.of_every_command
@options.debug
def convert(source: str, out: str, to: str, **settings: Any) -> None:
    """Convert a published checkpoint, executing nothing from it; or a run, for other programs.

    FILE: a pickle of the EDM family (EDM, SiD, RSD, Ambient), a torch.save file of such a network or of its state dict,
    or a safetensors state dict. OUT can then be used wherever a run is. What a checkpoint has no use for is refused by
    name.
    """
    from rsd_fast import convert as converters
    from rsd_fast import export
    from rsd_fast.config import Pretrain

    from .usage import usage_errors

    described = {name: value for name, value in settings.items() if value not in (None, "auto")}
    if to != "run" and described:
        option = next(iter(described)).replace("_", "-")
        raise click.UsageError(f"--{option}: describes a published checkpoint; with --to {to} there is none")
    if to == "run":
        with usage_errors():
            description = converters.Described(**described)
            config = converters.convert(source, out, description)
        kind = "denoiser" if isinstance(config, Pretrain) else "one-step generator"
        shape = "x".join(map(str, config.observations.image_shape))
        classes = f", {config.observations.label_dim} classes" if config.observations.label_dim else ""
        click.echo(f"{out}: {kind}, {config.network.architecture}, images {shape}{classes}")
        return
    write = {
        "edm-state-dict": converters.write_state_dict,
        "onnx": export.write_onnx,
        "torch-export": export.write_torch_export,
    }[to]
    with usage_errors():
        click.echo(write(source, out))
