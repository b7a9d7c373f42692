"""From the settings of a user to what they mean on this machine and for these data.

The settings' names are those of the commands' options. What is wrong with one raises `rsd_fast.errors.FieldError`.
"""

from .device import resolve_device, resolve_precision

__all__ = ["resolve_device", "resolve_precision"]
