"""A generator behind the call that users of diffusers know: `pipe(batch_size=4).images`."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .data import to_rgb
from .generator import Generator
from .loading import load_generator


@dataclass
class ImagePipelineOutput:
    """images: a list of PIL images, or an array or tensor of them."""

    images: Any


class OneStepPipeline:
    """Unconditional or class-conditional images in one network evaluation.

    pipe = OneStepPipeline.from_pretrained("runs/gen").to("cuda")
    images = pipe(batch_size=4, generator=torch.Generator().manual_seed(0)).images
    """

    def __init__(self, generator: Generator):
        self.generator = generator

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> "OneStepPipeline":
        """path: whatever `load_generator` takes: a run, a checkpoint folder or file, a hub id."""
        return cls(load_generator(path))

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    def to(self, device: str | torch.device) -> "OneStepPipeline":
        self.generator.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        *,
        class_labels: Tensor | list[int] | int | None = None,
        generator: torch.Generator | None = None,
        num_inference_steps: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """`batch_size` images.

        class_labels: of each, or of all; a conditional generator draws them where they are not given. generator: of
        the randomness; torch's global one where it is not given. output_type: "pil", "np" (float32 [B, H, W, C] in
        [0, 1]) or "pt" (float32 [B, C, H, W] in [0, 1]). return_dict: False returns the tuple (images,).
        Raises ValueError for other values, and for more than the one step there is.
        """
        if num_inference_steps != 1:
            raise ValueError(f"num_inference_steps: a one-step generator takes 1, got {num_inference_steps}")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type: expected pil, np or pt, got '{output_type}'")
        if class_labels is not None:
            class_labels = torch.as_tensor(class_labels)
            if class_labels.is_floating_point() or class_labels.shape not in ((), (1,), (batch_size,)):
                raise ValueError(f"class_labels: expected one integer or {batch_size}, got {class_labels.tolist()}")
            class_labels = class_labels.expand(batch_size)
        place = generator.device if generator is not None else "cpu"
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=place))
        images = self.generator.sample(batch_size, seed, labels=class_labels)
        result: Any
        if output_type == "pil":
            from PIL import Image

            result = [Image.fromarray(pixels) for pixels in to_rgb(images.cpu()).permute(0, 2, 3, 1).numpy()]
        else:
            result = (images / 2 + 0.5).cpu()
            if output_type == "np":
                result = result.permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(result) if return_dict else (result,)
