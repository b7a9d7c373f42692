"""The one-step generator as a torch.export program or an ONNX file, for programs that have no rsd-fast.

Our ops are replaced by their references, so that only standard operators are written. Inputs are `latents` [B, C, H,
W] ~ N(0, I); of a generator of several classes `labels` [B, label_dim], one-hot; of one from masked images or k-space
`mask` [B, ...], 1 for the pixels or columns that it sees of its latents. The output is `images` [B, C, H, W], about
[-1, 1]. B is free.
"""

import copy
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import files, ops
from .generator import Generator
from .loading import load_generator
from .methods.distill import generate
from .networks import one_hot
from .runs import RunError, refuse_existing

ONNX_INSTALL = "pip install 'rsd-fast[onnx]'"


class Exportable(nn.Module):
    """A generator that takes and makes nothing but tensors."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.denoiser = copy.deepcopy(generator.denoiser).cpu().to(memory_format=torch.contiguous_format)
        self.denoiser.channels_last = False
        self.generator = [generator]  # in a list: no submodule

    def forward(self, latents: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        generator, view = self.generator[0], None
        if mask is not None:
            view = generator.view_of_mask(mask)
        return generate(self.denoiser, latents, generator.sigma_init, labels, view)


def example_inputs(generator: Generator, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """The inputs of an exported generator, by name, that make the images 0 .. batch - 1 of `seed`."""
    index = torch.arange(batch)
    inputs = {"latents": ops.randn((batch, *generator.image_shape), seed, index, 0, ops.Stream.LATENT)}
    if generator.label_dim:
        labels = one_hot(index % generator.label_dim, generator.label_dim)
        assert labels is not None
        inputs["labels"] = labels
    kept = generator.view(index, seed).kept
    if kept is not None:
        inputs["mask"] = kept.float()
    elif generator.config.objective.conditional:
        raise ValueError(f"{generator.corruption}: its view does not say, as `kept`, what it leaves of the latents")
    return inputs


def program(generator: Generator) -> torch.export.ExportedProgram:
    """The generator in standard operators, float32, for any batch."""
    inputs = example_inputs(generator)
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in inputs}
    module = Exportable(generator).eval()
    with torch.no_grad():
        exported = torch.export.export(module, (), inputs, dynamic_shapes=shapes)
        return exported.run_decompositions(ops.decompositions())


def write_torch_export(run: str | os.PathLike | Generator, file: str | os.PathLike) -> Path:
    """Write a generator as a .pt2 file, which `torch.export.load(file).module()` opens; returns the file.

    run: a generator, or whatever `load_generator` takes. Raises ValueError on another suffix, RunError where the file
    is there already.
    """
    file, generator = _prepare(run, file, ".pt2")
    exported = program(generator)
    with files.atomic_file(file) as temporary:
        torch.export.save(exported, temporary)
    return file


def write_onnx(run: str | os.PathLike | Generator, file: str | os.PathLike) -> Path:
    """Write a generator as an .onnx file and compare it with PyTorch by onnxruntime; returns the file. As above.

    Raises RunError without the packages of the extra `onnx`, and where the two differ by 1e-4 or more.
    """
    file, generator = _prepare(run, file, ".onnx")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RunError(f"{file}: writing ONNX needs {error.name}; {ONNX_INSTALL}") from None
    exported = program(generator)
    with files.atomic_file(file) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            names = list(example_inputs(generator))
            written: Any = torch.onnx.export(exported, input_names=names, output_names=["images"], verbose=False)
            written.save(temporary, external_data=False)
        inputs = example_inputs(generator, batch=3)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (images,) = session.run(["images"], {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            difference = float((torch.from_numpy(images) - Exportable(generator)(**inputs)).abs().max())
        if not difference < 1e-4:
            raise RunError(f"{file}: ONNX differs from PyTorch by {difference:.2g}; nothing was written")
    return file


def _prepare(run: str | os.PathLike | Generator, file: str | os.PathLike, suffix: str) -> tuple[Path, Generator]:
    file = Path(file)
    if file.suffix != suffix:
        raise ValueError(f"{file}: expected a name that ends in {suffix}")
    refuse_existing(file)
    return file, run if isinstance(run, Generator) else load_generator(run)
