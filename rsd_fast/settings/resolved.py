"""What settings are resolved to."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from rsd_fast.config import Distill, Pretrain
from rsd_fast.corruptions import Corruption
from rsd_fast.data import ImageArray

Config = TypeVar("Config", Pretrain, Distill)


@dataclass(frozen=True, kw_only=True)
class Resolved(Generic[Config]):
    """A run to be.

    config: everything it depends on. resume: does it go on with the run that is there? source: its data, where they
    were opened on the way. corruption: the operator, where it was given as an object rather than a SPEC.
    """

    config: Config
    resume: bool = False
    source: ImageArray | None = None
    corruption: Corruption | None = None
