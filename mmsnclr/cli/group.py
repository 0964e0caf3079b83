"""The group of all verbs."""

import os
import re
import sys
from contextlib import suppress
from typing import Any

import click

from ..datasets.decoding import LIMIT, MAX_PIXELS
from ..version import __version__


class _Verbs(click.Group):
    """Lists the verbs in the order of their use, and shows errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            verb = self.commands[str(ctx.invoked_subcommand)]
            raise click.ClickException(_as_typed(str(error), verb)) from error


def _as_typed(message: str, verb: click.Command) -> str:
    """A message with a verb's settings as the command line has them: ``--val=`` for ``val_json=``.

    Names of several words are replaced wherever they are no part of a path or of another name.
    """
    for parameter in verb.params:
        is_option = isinstance(parameter, click.Option)
        typed = parameter.opts[0] if is_option else parameter.human_readable_name
        ends = r'(?![\w./\'"-])' if '_' in parameter.name else '(?==)'
        message = re.sub(rf'(?<![\w./\'"-]){parameter.name}{ends}', typed, message)
    return message


def _set_limit(ctx: click.Context, parameter: click.Parameter, megapixels: float | None) -> None:
    if megapixels is not None:
        os.environ[LIMIT] = str(megapixels)  # which processes that load images have, too


@click.group(
    cls=_Verbs,
    subcommand_metavar='VERB [ARGS]...',
    context_settings=dict(help_option_names=['-h', '--help']),
)
@click.option(
    '--max-megapixels',
    type=click.FloatRange(min=0, min_open=True),
    metavar='FLOAT',
    envvar=LIMIT,
    expose_value=False,
    callback=_set_limit,
    help=f'Leave larger images out.  [default: {MAX_PIXELS / 1e6:.0f}]',
)
@click.version_option(__version__)
def main() -> None:
    """A folder of images in, a better detector out.

    \b
    mmsnclr pretrain photos/ --out run/
    mmsnclr pretrain --help
    """  # noqa: D301  click wants the backspace itself
    streams: tuple[Any, ...] = sys.stdout, sys.stderr
    for stream in streams:  # names of classes may be of any alphabet
        with suppress(AttributeError):  # of one that is no file
            stream.reconfigure(errors='backslashreplace')
