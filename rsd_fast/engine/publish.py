"""What a run logs, live, to TensorBoard and to Weights & Biases, by their own packages."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import distributed

FOLDER = "tensorboard"  # in a run's


class Publisher:
    """Scalars and pictures to whichever of the two is asked for; to none in every process but the first.

    folder: of the run. project: of W&B; None: not there. Raises ModuleNotFoundError where a package is missing.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False, project: str | None = None, config: str = "{}"):
        self.board: Any = None
        self.wandb: Any = None
        if distributed.rank() != 0:
            return
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(os.fspath(folder / FOLDER))
        if project is not None:
            import json

            import wandb

            name = folder.resolve().name
            # One run of W&B a run directory, however often it is resumed.
            self.wandb = wandb.init(
                project=project, name=name, id=name, resume="allow", config=json.loads(config), dir=os.fspath(folder)
            )

    def scalars(self, record: dict[str, Any], kimg: float) -> None:
        """The numbers of a record, those by bands of sigma under the bands' names, at so many images."""
        values = numbers(record)
        step = round(kimg * 1000)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()
        if self.wandb is not None:
            self.wandb.log({**values, "images": step})

    def picture(self, path: Path, kimg: float) -> None:
        if self.board is not None:
            with Image.open(path) as image:
                self.board.add_image("samples", np.asarray(image), round(kimg * 1000), dataformats="HWC")
        if self.wandb is not None:
            import wandb

            self.wandb.log({"samples": wandb.Image(os.fspath(path)), "images": round(kimg * 1000)})

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """Flat: `by_sigma`'s lists by `NAME/sigma LEAST-GREATEST`."""
    found = {k: v for k, v in record.items() if isinstance(v, int | float) and k not in ("kimg", "step")}
    bands = dict(record.get("by_sigma", {}))
    edges = bands.pop("edges", [])
    for name, means in bands.items():
        for least, greatest, mean in zip(edges, edges[1:], means, strict=False):
            if mean is not None:
                found[f"{name}/sigma {least:g}-{greatest:g}"] = mean
    return found
