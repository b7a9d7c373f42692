"""What a run logs, live, to TensorBoard and to Weights & Biases, by their own packages."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rsd_fast import files, processes

FOLDER = "tensorboard"  # in a run's folder


class Publisher:
    """Sends scalars and pictures to whichever of the two is asked for, and only from the first process.

    folder: the run's. kimg: where the run begins, or goes on. project: its name at W&B; with None nothing goes there.
    config: the run's settings as JSON. Raises ModuleNotFoundError where a package is missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kimg: float = 0.0,
        tensorboard: bool = False,
        project: str | None = None,
        config: str = "{}",
    ) -> None:
        self.board: Any = None
        self.wandb: Any = None
        if processes.rank() != 0:
            return
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run logged after the checkpoint from which it goes on is dropped.
            self.board = SummaryWriter(os.fspath(folder / FOLDER), purge_step=round(kimg * 1000) + 1)
        if project is not None:
            import wandb

            self.wandb = wandb.init(
                project=project,
                name=folder.resolve().name,
                id=identity(folder),
                resume="allow",
                config=json.loads(config),
                dir=os.fspath(folder),
            )

    def scalars(self, record: dict[str, Any], kimg: float) -> None:
        """Send the numbers of a record at so many images; those by bands of sigma come under the bands' names."""
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


def identity(folder: Path) -> str:
    """The id of the run of W&B that belongs to a run directory, however often that is resumed."""
    file = folder / "wandb" / "id"
    if not file.exists():
        files.write_text(file, secrets.token_hex(8) + "\n")
    return file.read_text().strip()


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by name; those of `by_sigma`'s lists by `NAME/sigma LEAST-GREATEST`."""
    scalars = {k: v for k, v in record.items() if isinstance(v, int | float) and k not in ("kimg", "step")}
    bands = dict(record.get("by_sigma", {}))
    edges = bands.pop("edges", [])
    for name, means in bands.items():
        for least, greatest, mean in zip(edges, edges[1:], means, strict=False):
            if mean is not None:
                scalars[f"{name}/sigma {least:g}-{greatest:g}"] = mean
    return scalars
