"""The whole configuration of a run, of either stage."""

from dataclasses import dataclass
from pathlib import Path

from rsd_fast.errors import FieldError
from rsd_fast.generator_losses import LOSSES

from .distillation import Distillation
from .network import Network
from .objective import Objective
from .observations import Observations
from .setting import Settings, setting
from .training import Monitoring, Training

PRESET_HELP = "Defaults of the other options; `rsd-fast presets` lists them."


@dataclass(frozen=True, kw_only=True)
class Pretrain(Settings):
    """Stage 1: a teacher from observations."""

    kind: str = setting("pretrain", choices=("pretrain",), derived=True)
    preset: str = setting(metavar="P", help=PRESET_HELP, default_text="auto")  # whose settings were the defaults
    observations: Observations
    network: Network
    objective: Objective
    training: Training
    augment_probability: float = setting(
        0.0,
        at_least=0,
        at_most=1,
        metavar="P",
        help="Of each of EDM's augmentations (scale, rotation, ...), which the network is told of; only for clean "
        "images.",
    )
    monitoring: Monitoring = Monitoring()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment_probability and not self.observations.clean:
            raise FieldError(
                "augment_probability",
                "EDM's augmentations compute pixels from others, which would teach the network the corruption's "
                "traces; they are for clean images alone (--augment moves whole pixels)",
            )


@dataclass(frozen=True, kw_only=True)
class Distill(Settings):
    """Stage 2: a one-step generator from a teacher. What the teacher observed and minimised is repeated here."""

    kind: str = setting("distill", choices=("distill",), derived=True)
    preset: str = setting(metavar="P", help=PRESET_HELP, default_text="auto")
    teacher: str = setting(type=str | Path, metavar="RUN|FILE", help="Run of rsd-fast pretrain, or its model file.")
    observations: Observations = setting(derived=True)
    network: Network = setting(derived=True)
    objective: Objective = setting(derived=True)
    distillation: Distillation
    training: Training
    monitoring: Monitoring = Monitoring()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reuse_batch", "concurrent_scores"):
            if getattr(self.distillation, name) and not LOSSES[self.distillation.loss].needs_fake_score:
                raise FieldError(name, f"loss '{self.distillation.loss}' has no fake score")
        if self.distillation.reuse_batch and self.training.micro_batch not in (None, self.training.batch):
            raise FieldError(
                "reuse_batch", "keeps the generator's whole batch from one phase to the next; no micro_batch"
            )
        if self.distillation.concurrent_scores and self.training.device != "cuda":
            raise FieldError("concurrent_scores", "only CUDA devices have streams; use --device cuda")


RunConfig = Pretrain | Distill
KINDS: dict[str, type[Pretrain] | type[Distill]] = {"pretrain": Pretrain, "distill": Distill}
