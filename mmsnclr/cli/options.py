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
seed = click.option('--seed', default=0, show_default=True, help='Seed of all that is random.')


def amp(text: str) -> Callable:
    """The option `--amp`, with what it means for the verb."""
    return click.option(
        '--amp', type=click.Choice(AMP), is_flag=False, flag_value=AMP[0], help=text
    )
