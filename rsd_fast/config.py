"""Settings of a run: frozen, keyword-only, saved whole as the run's config.json.

Everything is resolved (no "auto" is left), so that a config repeats its run. Units are in the names; noise levels
(sigma) are in the units of images in [-1, 1].
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from .config_objective import Objective
from .errors import FieldError
from .generator_losses import LOSSES

FORMAT = 1  # of config.json and of the checkpoints' metadata
HIDDEN_NOISE = ("infinite", "sigma")
MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, MOST_PIXELS = 256, 2**15, 2**20, 2**14  # far beyond any use

_Config = TypeVar("_Config")


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What the observations are, and how they came about: y = A(x) + sigma_obs eps."""

    data: str  # a folder, zip, npy, npz or idx file, or the name of a bundled set
    simulate: bool  # True: the source holds clean images, each corrupted once as a function of (seed, index)
    corruption: str  # SPEC of A
    sigma_obs: float  # of an image drawn between sigma_obs_min, where that is given, and this
    sigma_obs_min: float | None = None
    clean_share: float = 0.0  # of images without noise
    sigma_obs_in_data: bool = False  # the source says for each image; the two above are the least and the greatest
    seed: int
    num_images: int
    image_shape: tuple[int, int, int]  # of the clean image x, [C, H, W]
    observation_shape: tuple[int, int, int]  # of y
    label_dim: int = 0  # classes; 0 where the data has no labels or they are not used

    augment: tuple[str, ...] = ()  # symmetries of A by which observations are moved: hflip, vflip, transpose

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_obs < float("inf"):
            raise ValueError(f"sigma_obs: expected at least 0, got {self.sigma_obs:g}")
        if self.sigma_obs_min is not None and not 0 <= self.sigma_obs_min <= self.sigma_obs:
            raise ValueError(f"sigma_obs: expected 0 <= least <= greatest, got {self.sigma_obs_min}:{self.sigma_obs}")
        for name in ("image_shape", "observation_shape"):
            shape = getattr(self, name)
            if len(shape) != 3 or not all(1 <= size <= MOST_PIXELS for size in shape):
                raise ValueError(f"{name}: expected C, H and W, each 1 to {MOST_PIXELS}, got {list(shape)}")
        if not 0 <= self.label_dim <= MOST_CLASSES:
            raise ValueError(f"label_dim: expected 0 to {MOST_CLASSES}, got {self.label_dim}")
        if not 0 <= self.clean_share < 1:
            raise ValueError(f"clean_share: expected 0 <= clean_share < 1, got {self.clean_share}")

    @property
    def clean(self) -> bool:
        """Are they the images themselves?"""
        return self.corruption == "identity" and self.sigma_obs == 0

    @property
    def sigma_least(self) -> float:
        """The least noise level of an observation: from there on a teacher is trained, below it is not."""
        if self.clean_share:
            return 0.0
        return self.sigma_obs if self.sigma_obs_min is None else self.sigma_obs_min


@dataclass(frozen=True, kw_only=True)
class Network:
    """Arguments of `networks.create`; attention by level (0 is the full resolution), so that it fits any size."""

    architecture: str = "ddpmpp"
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    num_blocks: int = 4
    attn_levels: tuple[int, ...] = (1,)
    augment_dim: int = 0
    dropout: float = 0.0
    label_dropout: float = 0.0
    gated: bool = False
    hidden_noise: str = "infinite"  # what hidden pixels count as in the preconditioning: "infinite", or "sigma"
    preconditioning: str = "edm"  # "vp" and "ve" for weights that were trained with those
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.hidden_noise not in HIDDEN_NOISE:
            raise ValueError(f"hidden_noise: expected {' or '.join(HIDDEN_NOISE)}, got '{self.hidden_noise}'")
        if not 0 < self.sigma_data < float("inf"):
            raise ValueError(f"sigma_data: expected more than 0, got {self.sigma_data}")
        # So that a file of a few bytes cannot ask for a network that takes all memory and time to describe.
        if len(self.channel_mult) * self.num_blocks > MOST_BLOCKS:
            raise ValueError(f"num_blocks: at most {MOST_BLOCKS} blocks in all levels, got {self.num_blocks} in each")
        widest = self.model_channels * max(self.channel_mult, default=1)
        if widest > MOST_CHANNELS:
            raise ValueError(f"model_channels: at most {MOST_CHANNELS} in a level, got {widest}")
        if self.augment_dim > MOST_CHANNELS:
            raise ValueError(f"augment_dim: at most {MOST_CHANNELS}, got {self.augment_dim}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """The engine's settings, the same for both stages. Lengths are in thousand images (kimg)."""

    kimg: float = 1000.0  # train until this many have been seen in all
    batch: int = 256  # images a step, over all processes
    micro_batch: int | str | None = None  # images a forward pass; None: a process's whole batch; "auto": what fits
    lr: float = 2e-4
    lr_rampup_kimg: float = 0.0  # linear from 0
    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8
    clip: float | None = None  # largest norm of the gradient; None: no clipping
    ema_halflife_kimg: float = 500.0
    ema_rampup: float | None = 0.05  # the half-life is at most this share of the images seen; None: no ramp-up
    precision: str = "fp32"  # fp32, tf32, bf16: of the networks; weights, losses and EMA are always float32
    compile: bool = False
    cuda_graphs: bool = False  # replay each phase's kernels rather than launching them one by one
    checkpoint_activations: bool = False  # of each block keep the input alone, and evaluate it again for its gradient
    seed: int = 0
    device: str = "cpu"
    log_kimg: float = 10.0
    snapshot_kimg: float = 100.0

    def __post_init__(self) -> None:
        for name in ("kimg", "batch", "lr", "ema_halflife_kimg", "log_kimg", "snapshot_kimg", "adam_eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 <= {name} < 1, got {getattr(self, name)}")
        if isinstance(self.micro_batch, str) and self.micro_batch != "auto":
            raise ValueError(f"micro_batch: expected a number or auto, got '{self.micro_batch}'")
        if isinstance(self.micro_batch, int) and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise ValueError(f"batch: {self.batch} is not divisible by micro-batch {self.micro_batch}")
        if self.cuda_graphs and self.device != "cuda":
            raise ValueError("cuda_graphs: only CUDA devices have them; use --device cuda")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip: expected more than 0, got {self.clip}")
        if self.precision not in ("fp32", "tf32", "bf16"):
            raise ValueError(f"precision: expected fp32, tf32 or bf16, got '{self.precision}'")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed: expected 0 <= seed < 2^64, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """How a run is watched. It changes nothing of what is learned; stop_patience can end the run."""

    eval_kimg: float = 0.0  # thousand images between evaluations of a checkpoint; 0: none
    eval_num: int = 1000  # samples of each
    eval_metrics: tuple[str, ...] = ("proximal-pixel-fd",)  # proximal ones; the first chooses the best checkpoint
    eval_features: str | None = None  # network of the metrics that need one
    eval_features_weights: str | None = None  # file of its weights
    stop_patience: int | None = None  # evaluations in a row that are no better, after which the run ends
    tensorboard: bool = False
    wandb: str | None = None  # project

    def __post_init__(self) -> None:
        if not 0 <= self.eval_kimg < float("inf"):
            raise ValueError(f"eval_kimg: expected at least 0, got {self.eval_kimg}")
        if self.eval_num < 2:
            raise ValueError(f"eval_num: expected at least 2, got {self.eval_num}")
        if self.stop_patience is not None and self.stop_patience < 1:
            raise ValueError(f"stop_patience: expected at least 1, got {self.stop_patience}")
        if self.stop_patience is not None and not self.eval_kimg:
            raise ValueError("stop_patience: counts evaluations, and without eval_kimg there are none")
        if not self.eval_metrics or not all(metric.startswith("proximal-") for metric in self.eval_metrics):
            raise ValueError("eval_metrics: expected proximal ones, as there is no clean image")


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Stage 1: a teacher from observations."""

    kind: str = "pretrain"
    preset: str  # whose settings were the defaults
    observations: Observations
    network: Network
    objective: Objective
    training: Training
    augment_probability: float = 0.0  # of each of EDM's augmentations, of clean images alone
    monitoring: Monitoring = Monitoring()

    def __post_init__(self) -> None:
        if not 0 <= self.augment_probability <= 1:
            raise ValueError(f"augment_probability: expected 0 to 1, got {self.augment_probability}")
        if self.augment_probability and not self.observations.clean:
            raise ValueError(
                "augment_probability: EDM's augmentations compute pixels from others, which would teach the network "
                "the corruption's traces; they are for clean images alone (--augment moves whole pixels)"
            )


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Settings of restoration score distillation (RSD, arXiv 2505.13377, section 4 of its method)."""

    loss: str = "sid"
    alpha: float = 1.2
    tmax: float = 800.0  # sigma is drawn from the lower tmax/1000 of the grid below
    sigma_init: float = 2.5  # G(z) = D_G(sigma_init z, sigma_init)
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    fake_lr: float = 1e-5  # of the fake score; the generator's is training.lr
    fake_beta1: float = 0.0  # likewise training.beta1
    generator_loss_scale: float = 100.0  # matters to Adam's eps and to clipping alone
    reuse_batch: bool = False  # one batch of the generator's for both phases, at the memory of its activations
    concurrent_scores: bool = False  # teacher and fake score on two streams of a CUDA device

    def __post_init__(self) -> None:
        _ = LOSSES[self.loss]  # for its error
        if not 0 < self.tmax <= 1000:
            raise ValueError(f"tmax: expected 0 < tmax <= 1000, got {self.tmax}")
        for name in ("sigma_init", "sigma_min", "rho", "fake_lr", "generator_loss_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 <= self.fake_beta1 < 1:
            raise ValueError(f"fake_beta1: expected 0 <= fake_beta1 < 1, got {self.fake_beta1}")
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max: expected more than sigma_min ({self.sigma_min}), got {self.sigma_max}")


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Stage 2: a one-step generator from a teacher. What the teacher observed and minimised is repeated here."""

    kind: str = "distill"
    preset: str
    teacher: str
    observations: Observations
    network: Network
    objective: Objective
    distillation: Distillation
    training: Training
    monitoring: Monitoring = Monitoring()

    def __post_init__(self) -> None:
        for name in ("reuse_batch", "concurrent_scores"):
            if getattr(self.distillation, name) and not LOSSES[self.distillation.loss].needs_fake_score:
                raise FieldError(name, f"loss '{self.distillation.loss}' has no fake score")
        if self.distillation.reuse_batch and self.training.micro_batch not in (None, self.training.batch):
            raise ValueError(
                "reuse_batch: keeps the generator's whole batch from one phase to the next; no micro_batch"
            )
        if self.distillation.concurrent_scores and self.training.device != "cuda":
            raise ValueError("concurrent_scores: only CUDA devices have streams; use --device cuda")


RunConfig = Pretrain | Distill
KINDS: dict[str, type[Any]] = {"pretrain": Pretrain, "distill": Distill}


def to_json(config: RunConfig) -> str:
    return json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """The config of `to_json`. Raises ValueError that names an unknown, missing or ill-typed field."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(values, dict) or values.get("kind") not in KINDS:
        raise ValueError("not the configuration of a run: 'kind' is neither pretrain nor distill")
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"written by another version of rsd-fast (this one reads format {FORMAT})")
    return _decode(KINDS[values["kind"]], values, "")


def _decode(kind: type[_Config], values: Any, path: str) -> _Config:
    if not isinstance(values, dict):
        raise ValueError(f"{path or 'config'}: expected an object, got {type(values).__name__}")
    types_of = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ValueError(f"{path}{name}: unknown field")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING:
            raise ValueError(f"{path}{name}: missing")
    return kind(**{name: _value(types_of[name], value, path + name) for name, value in values.items()})


def _value(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode(kind, value, path + ".")  # type: ignore[arg-type]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if option is types.NoneType and value is None:
            return None
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(_value(typing.get_args(option)[0], item, path) for item in value)
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    raise ValueError(f"{path}: expected {kind}, got {value!r}")
