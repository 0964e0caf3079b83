"""Options that several verbs have."""

from collections.abc import Callable

import click

from ..engine.optim import AMP

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
    help='Train the same from it, or from "random"; repeatable.',
)


def _percents(context: click.Context, option: click.Parameter, text: str | None) -> list | None:
    try:
        return text and [float(part) for part in text.split(',')]
    except ValueError as error:
        raise click.BadParameter(f'{text!r} is no list of percents such as 5,10,100') from error


fractions = click.option(
    '--fractions',
    metavar='P,P,...',
    callback=_percents,
    help='Train on so many percent of the labels, such as 5,10,100, and compare.',
)
seeds = click.option(
    '--seeds', type=int, help='Train so often on each of --fractions. [default: 3]'
)
seed = click.option('--seed', default=0, show_default=True, help='Seed of all that is random.')


def amp(text: str) -> Callable:
    """The option `--amp`, with what it means for the verb."""
    return click.option(
        '--amp', type=click.Choice(AMP), is_flag=False, flag_value=AMP[0], help=text
    )
