"""Settings of a run: frozen, keyword-only, saved whole as the run's config.json.

Everything is resolved (no "auto" is left), so that a config repeats its run. Units are in the names; noise levels
(sigma) are in the units of images in [-1, 1]. Nothing here imports torch, so that commands list their options at once.
"""

from .distillation import Distillation
from .encoding import FORMAT, from_json, to_json
from .files import settings_from_file, settings_of
from .network import ARCHITECTURES, PRECONDITIONINGS, Architecture, Network, UNet, choose_network
from .objective import OBJECTIVES, SIGMA_DISTRIBUTIONS, Objective, Rule
from .observations import AUGMENTATIONS, Observations
from .options import check_settings, default_text, help_text, options
from .run import Distill, Pretrain, RunConfig
from .setting import Option, Setting, Settings, options_of, setting
from .training import Monitoring, Training

__all__ = [
    "ARCHITECTURES",
    "AUGMENTATIONS",
    "FORMAT",
    "OBJECTIVES",
    "PRECONDITIONINGS",
    "SIGMA_DISTRIBUTIONS",
    "Architecture",
    "Distill",
    "Distillation",
    "Monitoring",
    "Network",
    "Objective",
    "Observations",
    "Option",
    "Pretrain",
    "Rule",
    "RunConfig",
    "Setting",
    "Settings",
    "Training",
    "UNet",
    "check_settings",
    "choose_network",
    "default_text",
    "from_json",
    "help_text",
    "options",
    "options_of",
    "setting",
    "settings_from_file",
    "settings_of",
    "to_json",
]
