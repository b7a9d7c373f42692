"""rsd-fast push: a run to the Hugging Face hub."""

import click

from . import options


@click.command()
@click.argument("run", metavar="RUN", type=click.Path())
@click.argument("repo_id", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Let nobody else see it.")
@click.option("--license", metavar="NAME", help="The hub's name of a licence, for the card, e.g. apache-2.0.")
@click.option("--dry-run", is_flag=True, help="Print the model card and stop.")
@options.of_every_command
@options.debug
def push(run: str, repo_id: str, private: bool, license: str | None, dry_run: bool) -> None:
    """Upload a run's averaged weights with a card that states data, corruption and metrics.

    Anybody can then load it by its id: `rsd-fast sample --run USER/NAME ...`. Needs `pip install 'rsd-fast[hub]'` and
    `hf auth login`. Paths of this machine are left out.
    """
    import tempfile
    from pathlib import Path

    from rsd_fast.hub import is_id
    from rsd_fast.push import push_to_hub, write_folder

    if not is_id(repo_id) or "@" in repo_id:
        raise click.UsageError(f"USER/NAME: expected an id such as jane/galaxies, got '{repo_id}'")
    if not dry_run:
        click.echo(push_to_hub(run, repo_id, private=private, license=license))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_folder(run, Path(folder), repo_id=repo_id, license=license)
        click.echo((Path(folder) / "README.md").read_text(encoding="utf-8"), nl=False)
