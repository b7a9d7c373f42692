"""Published checkpoints, read without executing anything in them, and ours, written for others.

`convert` makes of an EDM-family pickle, a torch.save or a state dict what can be used wherever a run is;
`write_state_dict` goes back.
"""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsd_fast import config as configs
from rsd_fast import corruptions, files, objectives, presets
from rsd_fast.config import Distill, Distillation, Observations, Pretrain, RunConfig, Training
from rsd_fast.engine.checkpoint import RunError, load_tensors, model_record, read_record, save_model
from rsd_fast.loading import build_denoiser, load
from rsd_fast.networks import BANKS, Denoiser
from rsd_fast.networks.layers import Conv2d, resample_filter
from rsd_fast.objectives import Objective

from .published import GENERATOR_KEYS, Found, Structure, find, structure
from .torch_files import read
from .unpickle import CheckpointError

__all__ = ["CheckpointError", "convert", "write_state_dict"]

RECORD = "rsd_fast.json"  # of a state dict of ours, beside its tensors: other readers pass it over


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What a published checkpoint does not say of itself."""

    kind: str = "auto"  # denoiser, generator; auto: a generator under the keys G and G_ema
    key: str | None = None  # of the network in the file
    preset: str | None = None  # of later training; None: by size
    corruption: str = "identity"  # of the observations it was trained on
    sigma_obs: float = 0.0
    sigma_init: float = 2.5  # of a generator
    preconditioning: str | None = None  # of a state dict; None: edm
    image_width: int | None = None  # of images that are not square

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "denoiser", "generator"):
            raise ValueError(f"kind: expected auto, denoiser or generator, got '{self.kind}'")
        if not 0 <= self.sigma_obs < float("inf"):
            raise ValueError(f"sigma_obs: expected at least 0, got {self.sigma_obs}")
        corruptions.parse(self.corruption)
        if self.preset is not None:
            presets.load(self.preset)


def convert(path: str | os.PathLike, out: str | os.PathLike, described: Described = Described()) -> RunConfig:  # noqa: B008
    """Write a published checkpoint as out/model.safetensors and out/config.json; returns the config.

    path: a pickle of the EDM family, a torch.save file, or a safetensors state dict. Nothing in it is executed. Raises
    CheckpointError, one line that names the file, on one that is damaged, that holds what no network needs, or whose
    network is not of a published kind or not as described; RunError where `out` is there already.
    """
    out = Path(out)
    refuse_existing(out)
    try:
        found, record = _open(Path(path), described.key)
        config, kimg = read_record(record) if record else (_config(Path(path).name, found, described), 0.0)
        with torch.device("meta"):  # so that nothing is allocated that the file does not hold
            denoiser = build_denoiser(config)
        fill(denoiser, found.tensors)
    except CheckpointError:
        raise
    except ValueError as error:
        message = str(error)
        raise CheckpointError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    with files.atomic_folder(out) as folder:
        save_model(folder / "model.safetensors", denoiser.state_dict(), config, kimg)
        (folder / "config.json").write_text(configs.to_json(config), encoding="utf-8")
    return config


def refuse_existing(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"{out}: exists already")


def _open(path: Path, key: str | None) -> tuple[Found, dict[str, str]]:
    """The network in a file, and what one of ours says of itself, empty for others."""
    if path.suffix == ".safetensors":
        tensors, metadata = load_tensors(path)
        found, record = find(tensors, key), metadata.get("rsd_fast", "{}").encode()
    else:
        found, record = find(read(path), key), _own_record(path)
    try:
        return found, json.loads(record)
    except RecursionError:
        raise ValueError("what it says of itself nests too deep") from None


def _own_record(path: Path) -> bytes:
    """Of a zip archive, which `read` has gone through: nothing in it is compressed."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return b"{}"
    with zipfile.ZipFile(path) as archive:
        name = next((n for n in archive.namelist() if n.endswith(f"/{RECORD}")), None)
        return archive.read(name) if name else b"{}"


def _config(source: str, found: Found, d: Described) -> RunConfig:
    """The config of a run that would have made the network."""
    shown = structure(found, d.preconditioning)
    corruption = corruptions.parse(d.corruption)
    masked = corruption.kind in objectives.KINDS.values()
    channels = _image_channels(shown, masked)
    network, size = shown.network, shown.image_size
    if masked and shown.out_channels == shown.in_channels:
        network = dataclasses.replace(network, hidden_noise="sigma")
    image_shape = corruption.image_shape((channels, size, d.image_width or size))
    observations = Observations(
        data=source,
        simulate=False,
        corruption=corruption.spec,
        sigma_obs=d.sigma_obs,
        seed=0,
        num_images=0,
        image_shape=image_shape,
        observation_shape=corruption.observation_shape(image_shape),
        label_dim=shown.label_dim,
    )
    objective = Objective(name=objectives.resolve("auto", d.sigma_obs, corruption, image_shape))
    by_size = "edm-imagenet64" if network.architecture == "adm" else presets.choose(size, "cuda")
    preset = presets.load(d.preset or by_size).name
    common: dict[str, Any] = {"preset": preset, "observations": observations, "objective": objective}
    if d.kind == "generator" or (d.kind == "auto" and found.key in GENERATOR_KEYS):
        network = dataclasses.replace(network, dropout=0.0, label_dropout=0.0)
        distillation = Distillation(sigma_init=d.sigma_init)
        return Distill(teacher=source, network=network, distillation=distillation, training=Training(), **common)
    return Pretrain(network=network, training=Training(), **common)


def _image_channels(shown: Structure, masked: bool) -> int:
    """Channels of the network's images. Raises ValueError where they are not as the corruption has them."""
    taken, made = shown.in_channels, shown.out_channels
    if not masked:
        if shown.network.gated or taken > 3:
            raise ValueError(
                f"is a network of masked images ({taken} input channels{', gated' * shown.network.gated}); "
                "say how they are masked, for example --corruption random_mask:missing=0.6"
            )
        if made != taken:
            raise ValueError(f"takes images of {taken} channels and makes such of {made}")
        return taken
    if taken % 2 or made not in (taken, taken // 2):
        raise ValueError(f"has {taken} input and {made} output channels; one of masks has image and mask as its input")
    return taken // 2


def fill(denoiser: Denoiser, tensors: dict[str, Tensor]) -> None:
    """Put weights into a denoiser that was built without (on the meta device), as float32.

    Strict: raises ValueError that names the first weight that is missing, too much, of another shape, or not finite.
    """
    expected = denoiser.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            raise ValueError(f"lacks {name} {list(value.shape)}")
        if tensors[name].shape != value.shape:
            raise ValueError(f"{name}: expected {list(value.shape)}, got {list(tensors[name].shape)}")
    for name in tensors:
        if name not in expected and name not in BANKS:
            raise ValueError(f"holds {name}, which the network has no place for")
    weights = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    filters = {f"{name}.resample_filter": m.taps for name, m in denoiser.named_modules() if isinstance(m, Conv2d)}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: holds a value that is not finite")
        if name in filters and not torch.allclose(tensor, resample_filter(filters[name]), atol=1e-6):
            raise ValueError(f"{name}: is not the filter of taps {filters[name]}")
    for name in BANKS:
        if name in tensors:
            weights[name] = tensors[name]
            setattr(denoiser, name, tensors[name])
    denoiser.load_state_dict(weights, assign=True)


def write_state_dict(run: str | os.PathLike, file: str | os.PathLike) -> Path:
    """Write a run's averaged weights as a state dict with EDM's parameter names; returns the file.

    file: .safetensors, or .pt or .pth for torch.load. Also holds the run's config, where other readers do not look,
    so that `convert` gives the run back. Raises RunError on a path that is no run, ValueError on another suffix.
    """
    file = Path(file)
    if file.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"{file}: expected a name that ends in .safetensors, .pt or .pth")
    refuse_existing(file)
    loaded = load(run)
    tensors = {n: t.contiguous() for n, t in loaded.network.state_dict().items() if n not in BANKS}
    with files.atomic_file(file) as temporary:
        if file.suffix == ".safetensors":
            save_model(temporary, tensors, loaded.config, loaded.kimg)
        else:
            torch.save(tensors, temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                folder = archive.namelist()[0].partition("/")[0]
                archive.writestr(f"{folder}/{RECORD}", model_record(loaded.config, loaded.kimg))
    return file
