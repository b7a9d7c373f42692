"""An option whose help lists what there is of a kind, one's own parts included."""

import click


def sources() -> str:
    """What a source of images is."""
    from rsd_fast.data.readers import brief_kinds

    return brief_kinds()


def operators() -> str:
    """Every operator: an example of its SPEC."""
    from rsd_fast import corruptions

    examples = [example for example, _ in corruptions.described().values()]
    return f"{', '.join(examples)}, or module.name of your own"


LISTS = {"{sources}": sources, "{operators}": operators}


class ListedHelpOption(click.Option):
    """`{sources}` and `{operators}` in its help stand for such lists, which are made only when the help is printed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        template = self.help
        for place, listed in LISTS.items():
            if self.help and place in self.help:
                self.help = self.help.replace(place, listed())
        try:
            return super().get_help_record(ctx)
        finally:
            self.help = template  # what there is may be more the next time
