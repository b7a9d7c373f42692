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
    from rsd_fast.api import training
    from rsd_fast.config import to_json
    from rsd_fast.settings import resolve_pretrain

    if dry_run:
        click.echo(to_json(resolve_pretrain(settings).config), nl=False)
    else:
        click.echo(training.pretrain(**settings).path)
