"""Settings of the engine and of how a run is watched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd_fast.errors import FieldError

from .setting import Settings, setting

KIMG = "thousand images"
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """The engine's settings, the same for both stages. Lengths are in thousand images (kimg)."""

    kimg: float = setting(1000.0, more_than=0, unit=KIMG, help="Train until so many images have been seen in all.")
    batch: int = setting(256, at_least=1, help="Images a step, over all processes.")
    micro_batch: int | str | None = setting(
        None,
        at_least=1,
        choices=("auto",),
        metavar="N|auto",
        help="Images a forward pass; auto: as many as fit into memory.",
        default_text="the whole batch of a process",
    )
    lr: float = setting(2e-4, more_than=0, help="Adam's learning rate.")
    lr_rampup_kimg: float = setting(0.0, at_least=0, unit=KIMG, help="Length of the linear warm-up.")
    beta1: float = setting(0.9, at_least=0, below=1, help="Adam's first decay.")
    beta2: float = setting(0.999, at_least=0, below=1, help="Adam's second decay.")
    adam_eps: float = setting(1e-8, more_than=0, help="Adam's epsilon.")
    clip: float | None = setting(None, more_than=0, help="Largest norm of the gradient.", default_text="no clipping")
    ema_halflife_kimg: float = setting(500.0, more_than=0, unit=KIMG, help="Half-life of the weights' average.")
    ema_rampup: float | None = setting(
        0.05, more_than=0, help="The half-life is at most this share of the images seen."
    )
    precision: str = setting(
        "fp32",
        choices=PRECISIONS,
        auto=True,
        help="Of the networks; weights, losses and averages stay float32. auto: bf16 where the hardware has it.",
    )
    compile: bool = setting(
        False,
        help="torch.compile the networks.",
        default_text="no; of distill on a CPU with a C++ compiler, from 2000 steps on, yes",
    )
    cuda_graphs: bool = setting(
        False, help="Replay each phase's kernels from a CUDA graph rather than launch them one by one."
    )
    checkpoint_activations: bool = setting(
        False,
        help="Keep only the input of each block, and evaluate the block again for its gradient: less memory, a third "
        "more time.",
    )
    seed: int = setting(0, at_least=0, below=2**64, help="Of all random numbers.", default_text="0")  # the data's, too
    device: str = setting("cpu", choices=("cpu", "cuda"), auto=True, help="Where to compute.")
    log_kimg: float = setting(10.0, more_than=0, unit=KIMG, help="Distance between log lines.")
    snapshot_kimg: float = setting(100.0, more_than=0, unit=KIMG, help="Distance between checkpoints.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.micro_batch, int) and self.batch % self.micro_batch:
            raise FieldError("batch", f"{self.batch} is not divisible by micro-batch {self.micro_batch}")
        if self.cuda_graphs and self.device != "cuda":
            raise FieldError("cuda_graphs", "only CUDA devices have them; use --device cuda")


@dataclass(frozen=True, kw_only=True)
class Monitoring(Settings):
    """How a run is watched. It changes nothing of what is learned; stop_patience can end the run."""

    eval_kimg: float = setting(
        0.0,
        at_least=0,
        unit=KIMG,
        help="Distance between evaluations of a checkpoint, which name the best one; 0: none.",
        default_text="0; of distill as --snapshot-kimg, where the teacher's observations are at hand",
    )
    eval_num: int = setting(
        1000, at_least=2, help="Samples of each evaluation.", default_text="1000 on a CPU, else 10000"
    )
    eval_metrics: tuple[str, ...] = setting(
        ("proximal-pixel-fd",),
        metavar="NAME,..",
        help="Proximal ones of `rsd-fast evaluate`; the first chooses the best checkpoint.",
        default_text="proximal-pixel-fd; of more than 4096 values an image proximal-fid",
    )
    eval_features: str | None = setting(
        None,
        metavar="NAME",
        help="Network of the metrics that need one, as --features of `rsd-fast evaluate`.",
        default_text="efficientnet-lite0",
    )
    eval_features_weights: str | None = setting(None, type=str | Path, metavar="FILE", help="Its weights.")
    stop_patience: int | None = setting(
        None, at_least=1, help="Stop when so many evaluations in a row are no better.", default_text="never"
    )
    tensorboard: bool = setting(False, help="Log to RUN/tensorboard, too, live.")
    wandb: str | None = setting(None, metavar="PROJECT", help="Log to Weights & Biases, too, live.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop_patience is not None and not self.eval_kimg:
            raise FieldError("stop_patience", "counts evaluations, and without eval_kimg there are none")
        if not self.eval_metrics or not all(metric.startswith("proximal-") for metric in self.eval_metrics):
            raise FieldError("eval_metrics", "expected proximal ones, as there is no clean image")

    @classmethod
    def as_options(cls, values: Mapping[str, Any], height: int | None = None) -> dict[str, Any]:
        """Without evaluations, nothing is said of them: as options, what they would be is refused."""
        if values.get("eval_kimg") == 0:
            of_evaluations = ("eval_num", "eval_metrics", "eval_features", "eval_features_weights")
            values = {name: value for name, value in values.items() if name not in of_evaluations}
        return super().as_options(values, height)
