"""rsd-fast presets: the settings that --preset names."""

import click

from . import options


@click.command()
@click.argument("name", required=False)
@options.json_flag
@options.of_every_command
@options.debug
def presets(name: str | None, as_json: bool) -> None:
    """List the presets, or show the settings of one.

    `rsd-fast pretrain --preset NAME` and `distill --preset NAME` take what you do not give from it.
    """
    import dataclasses
    import json

    from rsd_fast import presets

    from .usage import usage_errors

    if name is None:
        about = {known: presets.load(known).about.partition("\n")[0] for known in presets.names()}
        lines = [f"{known:<{max(map(len, about))}}  {text}" for known, text in about.items()]
        click.echo(json.dumps(about, indent=2) if as_json else "\n".join(lines))
        return
    with usage_errors():
        preset = dataclasses.asdict(presets.load(name))
    if as_json:
        click.echo(json.dumps(preset, indent=2))
        return
    click.echo(preset.pop("about"))
    preset["pretrain"]["augment_probability"] = preset["augment_probability"]
    for section, values in preset.items():
        if isinstance(values, dict) and values:
            click.echo(f"\n{section}")
            for field, value in values.items():
                click.echo(f"  {field.replace('_', '-'):<20} {typed(value)}")


def typed(value: object) -> str:
    """As one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
