"""The `mmsnclr` command; its verbs lie in `mmsnclr.commands`."""

from importlib import import_module

import click

VERBS = {
    'pretrain': 'Learn a backbone from unlabelled images.',
    'neighbors': 'Draw images with their nearest neighbours.',
    'embed': 'Write the features of images, and plot them in 2-D.',
    'report': 'Write one HTML page about a pretraining run.',
    'export': 'Write a backbone for another library.',
    'import': 'Read a backbone of another library or code.',
    'detect': 'Train a detector on a COCO-format set.',
    'predict': 'Find objects in images with a trained detector.',
}


class _Verbs(click.Group):
    """Imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = import_module(
            f'mmsnclr.commands.{name}_' if name == 'import' else f'mmsnclr.commands.{name}'
        )
        return module.command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section('Verbs'):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            raise click.ClickException(str(error)) from error


@click.command(cls=_Verbs, context_settings=dict(help_option_names=['-h', '--help']))
@click.version_option(package_name='mmsnclr')
def main() -> None:
    """A folder of images in, a better detector out.

    \b
    mmsnclr pretrain photos/ --out run/
    mmsnclr pretrain --help
    """  # noqa: D301  click wants the backspace itself
