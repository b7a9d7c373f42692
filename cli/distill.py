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
    from rsd_fast import config, train

    from .resolve import distill_config

    resolved, resume, source = distill_config(options.with_config(settings, "distill"))
    if dry_run:
        click.echo(config.to_json(resolved), nl=False)
    else:
        click.echo(train.distill(resolved, settings["out"], resume=resume, source=source))
