"""rsd-fast doctor: what is installed, and what serves which op."""

import click

from . import options


@click.command()
@options.json_flag
@options.debug
def doctor(as_json: bool) -> None:
    """Show versions, devices and backends."""
    import json

    from rsd_fast.doctor import report, table

    found = report()
    click.echo(json.dumps(found, indent=2) if as_json else table(found))
