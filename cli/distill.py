"""rsd-fast distill: a one-step generator from a teacher."""

from typing import Any

import click

from . import options


@click.command()
@options.run
@options.of_command("distill")
def distill(dry_run: bool, **settings: Any) -> None:
    """Distil a teacher into a one-step generator.

    Learns from no data: what the teacher observed, and how it was corrupted, is in the teacher's own config. The
    observations serve only to evaluate checkpoints.
    """
    from rsd_fast.api import training
    from rsd_fast.config import to_json
    from rsd_fast.settings import resolve_distill

    if dry_run:
        click.echo(to_json(resolve_distill(settings).config), nl=False)
    else:
        click.echo(training.distill(**settings).path)
