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

import safetensors.torch as safe_tensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from rsd_fast import config as configs
from rsd_fast import corruptions, files, objectives, presets
from rsd_fast.build import build_denoiser
from rsd_fast.config import Distill, Distillation, Objective, Observations, Pretrain, RunConfig, Training
from rsd_fast.errors import FieldError
from rsd_fast.loading import load, refuse_foreign
from rsd_fast.networks import BANKS, Denoiser
from rsd_fast.networks.layers import Conv2d, resample_filter
from rsd_fast.runs import RunError, load_tensors, model_record, read_record, refuse_existing, save_model

from .pickle_objects import DAMAGE, CheckpointError
from .pickle_objects import described as described_damage
from .published import GENERATOR_KEYS, PublishedNetwork, Structure, find_network, printable, structure
from .torch_files import read

__all__ = ["CheckpointError", "convert", "write_state_dict"]

# Of a state dict of ours, beside its tensors, where other readers pass them over.
RECORD, BANK_RECORD = "rsd_fast.json", "rsd_fast.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What a published checkpoint does not say of itself."""

    kind: str = "auto"  # denoiser, generator; auto: a generator under the keys G and G_ema
    key: str | None = None  # of the network in the file
    preset: str | None = None  # of later training; None: by size
    corruption: str = "identity"  # of the observations it was trained on
    sigma_obs: float = 0.0
    sigma_init: float | None = None  # of a generator; None: 2.5
    preconditioning: str | None = None  # of a state dict; None: edm
    image_width: int | None = None  # of images that are not square

    def first_described(self) -> str:
        """The first field, but for the key, that is not as it is by default; empty where there is none."""
        fields = (f.name for f in dataclasses.fields(self) if f.name != "key" and getattr(self, f.name) != f.default)
        return next(fields, "")

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "denoiser", "generator"):
            raise FieldError("kind", f"expected auto, denoiser or generator, got '{self.kind}'")
        if not 0 <= self.sigma_obs < float("inf"):
            raise FieldError("sigma_obs", f"expected at least 0, got {self.sigma_obs}")
        corruptions.parse(self.corruption)
        if self.preset is not None:
            presets.load(self.preset)


DESCRIBED = Described()


def convert(path: str | os.PathLike, out: str | os.PathLike, described: Described = DESCRIBED) -> RunConfig:
    """Write a published checkpoint as out/model.safetensors and out/config.json; returns the config.

    path: a pickle of the EDM family, a torch.save file, or a safetensors state dict. Nothing in it is executed. Raises
    CheckpointError, one line that names the file, on one that is damaged, that holds what no network needs, or whose
    network is not of a published kind or not as described; RunError where `out` is there already; FieldError for a
    description of a file of ours, which says itself what it is.
    """
    out = Path(out)
    refuse_existing(out)
    if Path(path).is_dir():
        raise CheckpointError(f"{path}: a folder, and a file is wanted; to convert a run, say to what (--to)")
    try:
        network, record, banks = _open(Path(path), described.key)
        if record and (field := described.first_described()):
            raise Redundant(field, f"{path} says itself what it is")
        config, kimg = read_record(record) if record else (_config(Path(path).name, network, described), 0.0)
        refuse_foreign(config)
        with torch.device("meta"):  # so that nothing is allocated that the file does not hold
            denoiser = build_denoiser(config)
        fill(denoiser, network.tensors | banks, most=4 * Path(path).stat().st_size + 2**20)
    except (CheckpointError, Redundant, OSError):
        raise
    except (*DAMAGE, RecursionError, SafetensorError) as error:
        message = str(error) if isinstance(error, ValueError | RunError) else described_damage(error)
        raise CheckpointError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    with files.atomic_folder(out) as folder:
        save_model(folder / "model.safetensors", denoiser.state_dict(), config, kimg)
        (folder / "config.json").write_text(configs.to_json(config), encoding="utf-8")
    return config


class Redundant(FieldError):
    """A description of a file that needs none."""


def _open(path: Path, key: str | None) -> tuple[PublishedNetwork, dict[str, str], dict[str, Tensor]]:
    """The network in a file, and of one of ours what it says of itself, and the banks of what came with the data."""
    if path.suffix == ".safetensors":
        tensors, metadata = load_tensors(path)
        return find_network(tensors, key), json.loads(metadata.get("rsd_fast", "{}")), {}
    network = find_network(read(path), key)
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return network, {}, {}
    with zipfile.ZipFile(path) as archive:  # `read` has gone through it: nothing in it is compressed
        members = {name.partition("/")[2]: name for name in archive.namelist()}
        record = json.loads(archive.read(members[RECORD])) if RECORD in members else {}
        banks = safe_tensors.load(archive.read(members[BANK_RECORD])) if BANK_RECORD in members else {}
    if unknown := set(banks) - set(BANKS):
        raise ValueError(f"{BANK_RECORD} holds {printable(next(iter(unknown)))}")
    return network, record, banks


def _config(source: str, published: PublishedNetwork, d: Described) -> RunConfig:
    """The config of a run that would have made the network."""
    seen = structure(published, d.preconditioning)
    corruption = corruptions.parse(d.corruption)
    masked = corruption.objective is not None
    channels = _image_channels(seen, masked)
    network, size = seen.network, seen.image_size
    if masked and seen.out_channels == seen.in_channels:
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
        label_dim=seen.label_dim,
    )
    objective = Objective(name=objectives.resolve("auto", d.sigma_obs, corruption, image_shape))
    fitting = "edm-imagenet64" if network.architecture == "adm" else presets.choose(size, "cuda")
    if observations.clean and fitting in ("cifar10", "ffhq64"):
        fitting = f"edm-{fitting}"
    preset = presets.load(d.preset or fitting).name
    common: dict[str, Any] = {"preset": preset, "observations": observations, "objective": objective}
    if d.kind == "generator" or (d.kind == "auto" and published.key in GENERATOR_KEYS):
        network = network.without_dropout()
        distillation = Distillation() if d.sigma_init is None else Distillation(sigma_init=d.sigma_init)
        return Distill(teacher=source, network=network, distillation=distillation, training=Training(), **common)
    if d.sigma_init is not None:
        raise Redundant("sigma_init", f"is of a generator, and {source} holds a denoiser (--kind generator)")
    return Pretrain(network=network, training=Training(), **common)


def _image_channels(seen: Structure, masked: bool) -> int:
    """Channels of the network's images. Raises ValueError where they are not as the corruption has them."""
    taken, made = seen.in_channels, seen.out_channels
    if not masked:
        if seen.network.gated or taken > 3:
            raise ValueError(
                f"is a network of masked images ({taken} input channels{', gated' * seen.network.gated}); "
                "say how they are masked, for example --corruption random_mask:missing=0.6"
            )
        if made != taken:
            raise ValueError(f"takes images of {taken} channels and makes such of {made}")
        return taken
    if taken % 2 or made not in (taken, taken // 2):
        raise ValueError(f"has {taken} input and {made} output channels; one of masks has image and mask as its input")
    return taken // 2


def fill(denoiser: Denoiser, tensors: dict[str, Tensor], most: int) -> None:
    """Put weights into a denoiser that was built without (on the meta device), as float32.

    Strict: raises ValueError that names the first weight that is missing, too much, of another shape, or not finite.
    Only filters may be missing, as they are constants. most: bytes that all may take; there are more where weights
    share storages, which can make little to much.
    """
    expected = denoiser.state_dict()
    filters = {f"{name}.resample_filter": m.taps for name, m in denoiser.named_modules() if isinstance(m, Conv2d)}
    tensors = {n: resample_filter(taps) for n, taps in filters.items() if n in expected} | tensors
    for name, value in expected.items():
        if name not in tensors:
            raise ValueError(f"lacks {name} {list(value.shape)}")
        if tensors[name].shape != value.shape:
            raise ValueError(f"{name}: expected {list(value.shape)}, got {list(tensors[name].shape)}")
    for name, tensor in tensors.items():
        if name not in expected and name not in BANKS:
            raise ValueError(f"holds {printable(name)}, which the network has no place for")
        if name not in BANKS and not tensor.is_floating_point():
            raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
    if sum(4 * tensor.numel() for tensor in tensors.values()) > most:
        raise ValueError("holds less than its weights are claimed to be: they share storages")
    weights = {n: tensor.detach().float().contiguous() for n, tensor in tensors.items() if n not in BANKS}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: holds a value that is not finite")
        if name in filters and not torch.allclose(tensor, resample_filter(filters[name]), atol=1e-6):
            raise ValueError(f"{name}: is not the filter of taps {filters[name]}")
    banks = {name: tensors[name] for name in BANKS if name in tensors}
    denoiser.hold_banks(banks)
    denoiser.load_state_dict(weights | banks, assign=True)


def write_state_dict(run: str | os.PathLike, file: str | os.PathLike) -> Path:
    """Write a run's averaged weights as a state dict with EDM's parameter names; returns the file.

    file: .safetensors, or .pt or .pth for torch.load. Also holds the run's config, and masks, coil maps and noise
    levels that came with its data, where other readers do not look, so that `convert` gives the run back. Raises
    RunError on a path that is no run, ValueError on another suffix, and where a .safetensors has no room for them.
    """
    file = Path(file)
    if file.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"{file}: expected a name that ends in .safetensors, .pt or .pth")
    refuse_existing(file)
    loaded = load(run)
    tensors = {n: t.contiguous() for n, t in loaded.network.state_dict().items()}
    banks = {name: tensors.pop(name) for name in BANKS if name in tensors}
    if banks and file.suffix == ".safetensors":
        raise ValueError(f"{file}: the run carries a {next(iter(banks))} of its data; a .pt has room for that")
    with files.atomic_file(file) as temporary:
        if file.suffix == ".safetensors":
            save_model(temporary, tensors, loaded.config, loaded.kimg)
        else:
            torch.save(tensors, temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                folder = archive.namelist()[0].partition("/")[0]
                archive.writestr(f"{folder}/{RECORD}", model_record(loaded.config, loaded.kimg))
                if banks:
                    archive.writestr(f"{folder}/{BANK_RECORD}", safe_tensors.save(banks))
    return file
