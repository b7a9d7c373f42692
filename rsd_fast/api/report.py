"""`rsd_fast.report`: one page that says whether a run worked, and shows why."""

import os
from typing import Any

from rsd_fast.corruptions import Corruption
from rsd_fast.reporting import Written, write_report
from rsd_fast.settings.device import resolve_device


def report(
    run: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    png: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    corruption: Corruption | None = None,
) -> Written:
    """Write the report of a run as one HTML file, by default RUN/report.html, over an older one.

    run: a run's folder, or what `rsd_fast.pretrain` and `rsd_fast.distill` return. png: a folder for its figures as PNG
    files, too. seed, device: of the samples that are drawn for it. corruption: the run's operator, where its SPEC
    is not known here. Returns the page's headline and path. Raises FieldError for an option that does not fit, and
    RunError where there is no run.
    """
    return write_report(
        getattr(run, "path", run),
        out,
        png=png,
        seed=seed,
        device=resolve_device(device),
        corruption=getattr(run, "corruption", None) if corruption is None else corruption,
        source=getattr(run, "source", None),
    )
