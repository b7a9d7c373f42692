"""rsd-fast pretrain: a teacher from observations."""

from typing import Any

import click

from . import options


@click.command()
@options.run
@options.of_command("pretrain")
def pretrain(dry_run: bool, **settings: Any) -> None:
    """Train a teacher only on corrupted images.

    Without --simulate the images of --data are the observations, and --corruption and --sigma-obs say how they came
    about. With it they are clean, and each is corrupted once, as a function of (seed, index).
    """
    from rsd_fast import config, train

    from .resolve import pretrain_config

    resolved, resume, source = pretrain_config(options.with_config(settings, "pretrain"))
    if dry_run:
        click.echo(config.to_json(resolved), nl=False)
    else:
        click.echo(train.pretrain(resolved, settings["out"], resume=resume, source=source))
