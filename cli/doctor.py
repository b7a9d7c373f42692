"""rsd-fast doctor: what is installed, and what serves which op."""

import click

from . import options


@click.command()
@options.json_flag
@options.device
@options.unused_seed
@options.debug
def doctor(as_json: bool, device: str) -> None:
    """Show versions, devices and backends; of the ops on one device with --device."""
    import json

    from rsd_fast.doctor import report, table

    facts = report()
    if device != "auto":
        facts["ops"] = {op: {device: served[device]} for op, served in facts["ops"].items()}
    click.echo(json.dumps(facts, indent=2) if as_json else table(facts))
