"""From the settings of a user to the config of a run: presets, what `auto` means, refusals, what may change later.

The settings' names are those of the commands' options. What is wrong with one raises `rsd_fast.errors.FieldError`.
"""

from .device import resolve_device, resolve_precision
from .distill import resolve_distill
from .names import STAGES
from .pretrain import resolve_pretrain
from .resolved import Resolved

__all__ = ["STAGES", "Resolved", "resolve_device", "resolve_distill", "resolve_precision", "resolve_pretrain"]
