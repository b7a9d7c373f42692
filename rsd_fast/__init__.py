"""One-step generators from corrupted images alone: restoration score distillation.

Importing this package imports nothing else: each submodule (and torch with it) is loaded on first use, so
that ``rsd-fast --help`` answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import _checkout
from ._version import __version__

_checkout.install_finder()

if TYPE_CHECKING:
    from . import (
        augmentation,
        config,
        convert,
        corruptions,
        data,
        engine,
        errors,
        evaluation,
        export,
        hub,
        methods,
        networks,
        objectives,
        ops,
        presets,
        sampling,
        schedules,
    )
    from .api.corrupt import corrupt, estimate_noise
    from .api.evaluate import evaluate
    from .api.report import report
    from .api.sample import sample
    from .api.training import TrainedRun, distill, pretrain
    from .loading import load_denoiser, load_generator
    from .pipeline import OneStepPipeline
    from .push import push_to_hub

__all__ = [
    "OneStepPipeline",
    "TrainedRun",
    "__version__",
    "augmentation",
    "config",
    "convert",
    "corrupt",
    "corruptions",
    "data",
    "distill",
    "engine",
    "errors",
    "estimate_noise",
    "evaluate",
    "evaluation",
    "export",
    "hub",
    "load_denoiser",
    "load_generator",
    "methods",
    "networks",
    "objectives",
    "ops",
    "presets",
    "pretrain",
    "push_to_hub",
    "report",
    "sample",
    "sampling",
    "schedules",
]

_FUNCTIONS = {
    "OneStepPipeline": "pipeline",
    "TrainedRun": "api.training",
    "corrupt": "api.corrupt",
    "distill": "api.training",
    "estimate_noise": "api.corrupt",
    "evaluate": "api.evaluate",
    "load_denoiser": "loading",
    "load_generator": "loading",
    "pretrain": "api.training",
    "push_to_hub": "push",
    "report": "api.report",
    "sample": "api.sample",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(f".{_FUNCTIONS[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
