"""Options that several verbs have, and the tools."""

import argparse
import ast
import re
from collections.abc import Callable, Sequence
from typing import Any

import click
from mmengine.config import DictAction

from ..engine.optim import AMP

# A dictionary, or a list or tuple with one; {{...}} is a text in which mmengine puts values in.
_HAS_DICT = re.compile(r'\s*(dict\(|\{(?!\{)|[\[(].*(\bdict\(|(?<!\{)\{(?!\{)))', re.DOTALL)

labels = click.option(
    '--labels',
    metavar='folders|cls|CSV',
    help='Classes of the images: the folder names, .cls files in tars, or a csv (path,label).',
)
val = click.option('--val', metavar='IMAGES', help='Validate on these, not on a fifth.')
image_root = click.option(
    '--image-root', metavar='DIR', help='Where paths in files start, if not beside them.'
)
projection = click.option(
    '--projection',
    type=click.Choice(['pca', 'tsne']),
    default='pca',
    show_default=True,
    help='How to get to two dimensions.',
)
max_images = click.option(
    '--max-images', type=int, help='If there are more, draw so many at random.'
)
load_workers = click.option(
    '--workers', type=int, help='Processes that load images. [default: one per core, up to 8]'
)
gpus = click.option(
    '--gpus', type=int, help='Processes that train. [default: one for each GPU; 1 on a CPU]'
)
compare = click.option(
    '--compare',
    metavar='CHECKPOINT',
    multiple=True,
    help='Train the same from it, or "random"; repeatable.',
)


def _percents(context: click.Context, option: click.Parameter, text: str | None) -> list | None:
    try:
        return [float(part) for part in text.split(',')] if text else None
    except ValueError as error:
        raise click.BadParameter(f'{text!r} is no list of percents such as 5,10,100') from error


fractions = click.option(
    '--fractions',
    metavar='P,P,...',
    callback=_percents,
    help='Train on such percents of the labels.',
)
seeds = click.option('--seeds', type=int, help='Times for each of --fractions.  [default: 3]')
seed = click.option('--seed', default=0, show_default=True, help='Seed of all that is random.')


def amp(text: str) -> Callable:
    """The option `--amp`, with what it means for the verb."""
    return click.option(
        '--amp', type=click.Choice(AMP), is_flag=False, flag_value=AMP[0], help=text
    )


class ConfigOptions(DictAction):
    """``KEY=VALUE`` as mmengine reads it, and dictionaries as configs have them.

    ``model.head.loss=dict(type=SNCLRLoss, temperature=0.1)``, with or without quotes inside, which
    mmengine's own takes for a text or does not come to an end of.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser | None,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Add settings to a namespace.

        Args:
            parser: As argparse hands it down.
            namespace: What gets the settings.
            values: Texts ``KEY=VALUE``.
            option_string: As argparse hands it down.

        Raises:
            argparse.ArgumentError: If a text is of another form.
        """
        for text in values:
            if text.find('=') < 1:
                raise argparse.ArgumentError(self, f'takes KEY=VALUE, not {text!r}')
            try:
                super().__call__(parser, namespace, [text], option_string)
            except (AssertionError, RecursionError, SyntaxError, ValueError) as error:
                raise argparse.ArgumentError(self, f'{text!r} cannot be read: {error}') from error

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        if not _HAS_DICT.match(val):
            return DictAction._parse_iterable(val)
        return _value(ast.parse(val.strip(), mode='eval').body)


def _value(node: Any) -> Any:
    """What an expression of dictionaries, lists, tuples, numbers and texts stands for."""
    match node:
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return dict(zip(map(_value, keys), map(_value, values)))
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=parts) if all(
            part.arg for part in parts
        ):
            return {part.arg: _value(part.value) for part in parts}
        case ast.List(elts=elements):
            return [_value(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element) for element in elements)
        case ast.Name() | ast.Attribute():  # a text without quotes
            return DictAction._parse_int_float_bool(ast.unparse(node))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f'{ast.unparse(node)} is no value; texts may stand in quotes') from error


def config_options(texts: Sequence[str]) -> dict[str, Any]:
    """Settings of the form ``KEY=VALUE``, as ``tools/train.py`` reads them.

    Raises:
        click.UsageError: If one is of another form.
    """
    found = argparse.Namespace()
    try:
        ConfigOptions(['--cfg-options'], 'settings')(None, found, texts)
    except argparse.ArgumentError as error:
        raise click.UsageError(str(error)) from error
    return getattr(found, 'settings', {})
