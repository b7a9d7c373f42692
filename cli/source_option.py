"""An option that takes a source of images, whose help lists what a source is."""

import click


class SourceOption(click.Option):
    """`{sources}` in its help stands for the kinds of sources there are, looked up only when it is printed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from rsd_fast.data.readers import brief_kinds

        self.help = (self.help or "").replace("{sources}", brief_kinds())
        return super().get_help_record(ctx)
