"""The network in a published checkpoint: its weights by their published names, and its settings.

A network is a module pickled with its source code (EDM, SiD, RSD), a module pickled plainly, or a state dict. Its
structure is read off the names and shapes of its weights, of which the arguments that were pickled with a module must
not speak otherwise; what no weight shows (dropout, sigma_data, the preconditioning) only they say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsd_fast.config import UNet

from .pickle_objects import Node

KEYS = ("G_ema", "ema", "G", "net", "network", "model", "state_dict", "model_state_dict")  # in order of preference
GENERATOR_KEYS = ("G_ema", "G")
PRECONDITIONINGS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
POSITIONAL = ("img_resolution", "img_channels", "label_dim")
WRAPPERS = {"module", "_orig_mod"}  # of DistributedDataParallel and torch.compile
DEEPEST, LONGEST, MOST = 32, 500, 20_000  # modules within modules, characters of a name, weights


@dataclass
class PublishedNetwork:
    """A network in a checkpoint."""

    key: str  # where in the file; empty for the whole of it
    tensors: dict[str, Tensor]  # by published name, `model.` first
    class_name: str = ""  # of a module
    arguments: dict[str, Any] = field(default_factory=dict)  # it was constructed with


def find_network(checkpoint: Any, key: str | None = None) -> PublishedNetwork:
    """The network at `key` of a checkpoint, or at the first of `KEYS` that holds one.

    Raises ValueError where there is none.
    """
    entries = checkpoint if isinstance(checkpoint, Mapping) else {}
    places = {"": checkpoint} if key is None else {}
    for name in (key,) if key else KEYS:
        if name in entries:
            places[name] = entries[name]
            if isinstance(entries[name], Mapping) and not _is_state(entries[name]):
                for inner in KEYS:
                    if inner in entries[name]:
                        places.setdefault(inner, entries[name][inner])
    for name, value in places.items():
        network = _network(value, name)
        if network is not None:
            return network
    held = ", ".join(printable(name) for name in list(entries)[:8]) or type(checkpoint).__name__
    raise ValueError(f"holds no network{f' under {key!r}' if key else ''}; it holds {held}")


def printable(value: Any) -> str:
    """What a file holds, for an error message: short, and without control characters."""
    return ascii(str(value))[1:-1][:80] if isinstance(value, str | int | float | list | tuple) else type(value).__name__


def _network(value: Any, key: str) -> PublishedNetwork | None:
    module = _module(value)
    if module is not None:
        class_name, attributes = module
        return PublishedNetwork(key, _clean(_weights(attributes)), class_name, _arguments(attributes))
    if _is_state(value):
        return PublishedNetwork(key, _clean((str(name), v) for name, v in value.items() if isinstance(v, Tensor)))
    return None


def _is_state(value: Any) -> bool:
    """A state dict, perhaps with counters beside its tensors."""
    if not isinstance(value, Mapping) or not all(isinstance(v, Tensor | int | float) for v in value.values()):
        return False
    return any(isinstance(v, Tensor) and v.ndim for v in value.values())


def _module(value: Any) -> tuple[str, Mapping[str, Any]] | None:
    """(class name, attributes) of a pickled module."""
    if not isinstance(value, Node):
        return None
    name, attributes = value.name.rpartition(".")[2], value.state
    if value.args and isinstance(value.args[0], Mapping) and "class_name" in value.args[0]:  # with its source code
        name, attributes = value.args[0]["class_name"], value.args[0].get("state")
    if isinstance(attributes, Mapping) and "_parameters" in attributes and "_modules" in attributes:
        return str(name), attributes
    return None


def _weights(attributes: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST or len(prefix) > LONGEST:
        raise ValueError(f"{prefix[:80]!a}: modules nested more than {DEEPEST} deep, or of longer names than any")
    for kind in ("_parameters", "_buffers"):
        for name, value in _mapping(attributes.get(kind)).items():
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value)
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif value is not None:
                raise ValueError(f"{prefix}{name}: expected a tensor, got {type(value).__name__}")
    for name, value in _mapping(attributes["_modules"]).items():
        module = _module(value)
        if module is not None:
            yield from _weights(module[1], f"{prefix}{name}.", depth + 1)
        elif value is not None:
            raise ValueError(f"{prefix}{name}: expected a module, got {type(value).__name__}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _arguments(attributes: Mapping[str, Any]) -> dict[str, Any]:
    positional = attributes.get("_init_args") or ()
    named = _mapping(attributes.get("_init_kwargs"))
    return {**dict(zip(POSITIONAL, positional, strict=False)), **named}


def _clean(weights: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Without the prefixes of wrappers; those of a bare network with the `model.` of its denoiser."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights:
        tensors[".".join(part for part in name.split(".") if part not in WRAPPERS)] = tensor
        if len(tensors) > MOST:
            raise ValueError(f"holds more than {MOST} weights")
    own = next((name.partition("enc.")[0] for name in tensors if re.match(r"([\w.]+\.)?enc\.\d", name)), "model.")
    if own.removesuffix("model.").count(".") > 1:
        return tensors
    return {f"model.{n.removeprefix(own)}" if n.startswith(own) else n: t for n, t in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What the weights show of a network."""

    image_size: int
    in_channels: int
    out_channels: int
    label_dim: int
    network: UNet


def structure(network: PublishedNetwork, preconditioning: str | None = None) -> Structure:
    """The settings of a network. Raises ValueError where it is none of the published kinds, or contradicts itself.

    preconditioning: of a state dict, which does not say; "edm" where it is not given.
    """
    shapes = {name.removeprefix("model."): tuple(tensor.shape) for name, tensor in network.tensors.items()}
    pattern = re.compile(r"enc\.(\d{1,5})x\1_(conv|down|block\d+|aux_residual)\.")
    sizes = sorted({int(match[1]) for name in shapes if (match := pattern.match(name))}, reverse=True)
    if not sizes or f"enc.{sizes[0]}x{sizes[0]}_conv.weight" not in shapes:
        raise ValueError("holds no network of the published kinds (DDPM++, NCSN++, ADM): it has no enc.RxR_conv")
    size = sizes[0]
    architecture = "ddpmpp"
    if "map_noise.freqs" in shapes:
        architecture = "ncsnpp"
    elif "out_conv.weight" in shapes:
        architecture = "adm"
    last = "out_conv" if architecture == "adm" else f"dec.{size}x{size}_aux_conv"
    try:
        model_channels = shapes["map_layer0.weight"][0] // 4
        widths = [shapes[f"enc.{r}x{r}_block0.conv1.weight"][0] for r in sizes]
        result = Structure(
            image_size=size,
            in_channels=shapes[f"enc.{size}x{size}_conv.weight"][1],
            out_channels=shapes[f"{last}.weight"][0],
            label_dim=shapes["map_label.weight"][1] if "map_label.weight" in shapes else 0,
            network=UNet(
                architecture=architecture,
                model_channels=model_channels,
                channel_mult=tuple(width // model_channels for width in widths),
                num_blocks=sum(bool(re.match(rf"enc\.{size}x{size}_block\d+\.conv0\.weight", name)) for name in shapes),
                attn_levels=tuple(i for i, r in enumerate(sizes) if f"enc.{r}x{r}_block0.qkv.weight" in shapes),
                augment_dim=shapes["map_augment.weight"][1] if "map_augment.weight" in shapes else 0,
                dropout=_number(network, "dropout", 0.0),
                label_dropout=_number(network, "label_dropout", 0.0),
                gated=any(name.endswith(".gate_weight") for name in shapes),
                preconditioning=_preconditioning(network, preconditioning),
                sigma_data=_number(network, "sigma_data", 0.5),
            ),
        )
    except KeyError as error:
        raise ValueError(f"is no network of the published kinds: it has no {error.args[0]}") from None
    except (IndexError, ZeroDivisionError):
        raise ValueError("is no network of the published kinds: its weights have other shapes") from None
    _compare(network.arguments, result)
    return result


def _number(network: PublishedNetwork, name: str, default: float) -> float:
    value = network.arguments.get(name, default)
    if not isinstance(value, int | float):
        raise ValueError(f"contradicts itself: {name} is {type(value).__name__} by its arguments, and no number")
    return float(value)


def _preconditioning(network: PublishedNetwork, described: str | None) -> str:
    named = PRECONDITIONINGS.get(network.class_name)
    if network.class_name.endswith("Precond") and named is None:
        known = ", ".join(PRECONDITIONINGS)
        raise ValueError(f"has the preconditioning {network.class_name}, which cannot be converted; {known} can")
    if described and named and described != named:
        raise ValueError(f"has the preconditioning '{named}', not '{described}'")
    return named or described or "edm"


def _compare(arguments: dict[str, Any], seen: Structure) -> None:
    """ValueError where a module's own arguments contradict its weights."""
    network = seen.network
    by_weights: dict[str, Any] = {
        "img_resolution": seen.image_size,
        "label_dim": seen.label_dim,
        "model_type": "DhariwalUNet" if network.architecture == "adm" else "SongUNet",
        "model_channels": network.model_channels,
        "channel_mult": list(network.channel_mult),
        "num_blocks": network.num_blocks,
        "attn_resolutions": [seen.image_size >> level for level in network.attn_levels],
        "augment_dim": network.augment_dim,
    }
    if network.preconditioning == "vp":  # the constants that ours has
        by_weights |= {"beta_d": 19.9, "beta_min": 0.1, "M": 1000}
    if network.architecture != "adm":
        ncsnpp = network.architecture == "ncsnpp"
        by_weights |= {
            "embedding_type": "fourier" if ncsnpp else "positional",
            "encoder_type": "residual" if ncsnpp else "standard",
            "decoder_type": "standard",
            "resample_filter": [1, 3, 3, 1] if ncsnpp else [1, 1],
        }
    for name, value in by_weights.items():
        said = arguments.get(name, value)
        plain = list(said) if isinstance(said, list | tuple) else said
        if name == "attn_resolutions" and isinstance(plain, list):
            plain = sorted(plain, reverse=True)
        if not isinstance(plain, int | float | str | list) or plain != value:
            raise ValueError(
                f"contradicts itself: {name} is {printable(said)} by its arguments, {value} by its weights"
            )
