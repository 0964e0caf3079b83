"""What a backbone sees in images."""

from typing import Any

import click

from ..console import say
from .group import main
from .options import image_root, labels, max_images, projection, seed


@main.command(short_help='Draw images with their nearest neighbours.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', help="Folder to write into.  [default: the checkpoint's]")
@labels
@image_root
@click.option('--queries', default=40, show_default=True, help='Images to look at.')
@click.option('--shown', default=10, show_default=True, help='Neighbours of each.')
@max_images
@seed
def neighbors(**arguments: Any) -> None:
    """Draw images with their nearest neighbours.

    Shows by which images, and how much, the model would have supported each
    query: neighbors.html, which can be searched, and neighbors.png. IMAGES are
    folders, searched recursively, tars, text files with a path per line, or
    COCO json files.

    \b
    mmsnclr neighbors run/epoch_100.pth photos/
    mmsnclr neighbors run/epoch_100.pth photos/ --labels folders --out look/
    """  # noqa: D301
    from ..api.neighbors import neighbors

    for path in neighbors(**arguments):
        say(f'wrote {path}')


@main.command(short_help='Write the features of images, and plot them in 2-D.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', required=True, metavar='DIR', help='Folder to write into.')
@labels
@image_root
@projection
@max_images
@seed
@click.option('--csv', is_flag=True, help='Write features.csv, too.')
def embed(**arguments: Any) -> None:
    """Write the features of images, and plot them in 2-D.

    Writes features.npz (paths, features, labels, projection), projection.png
    and, if asked to, features.csv (an image per line). IMAGES are folders,
    searched recursively, tars, text files with a path per line, or COCO json
    files.

    \b
    mmsnclr embed run/epoch_100.pth photos/ --out features/
    mmsnclr embed run/epoch_100.pth photos/ --out features/ --projection tsne
    """  # noqa: D301
    from ..api.embed import embed

    for path in filter(None, embed(**arguments)):
        say(f'wrote {path}')
