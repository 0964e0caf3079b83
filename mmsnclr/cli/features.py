"""What a backbone sees in images."""

from typing import Any

import click

from ..console import say
from .group import main
from .options import image_root, labels, load_workers, max_images, projection, seed, val


@main.command(short_help='Draw images with their nearest neighbours.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', help="Folder to write into.  [default: the checkpoint's]")
@labels
@image_root
@click.option('--queries', default=40, show_default=True, help='Images to look at.')
@click.option('--shown', default=10, show_default=True, help='Neighbours of each.')
@max_images
@load_workers
@seed
def neighbors(**arguments: Any) -> None:
    """Draw images with their nearest neighbours.

    Shows by which images, and how much, the model would have supported each
    query: neighbors.html, which can be searched, and neighbors.png. CHECKPOINT
    is a run's folder, or of any origin; a backbone alone shows similarity.
    IMAGES are folders, searched recursively, tars, text files with a path per
    line, or COCO json files.

    \b
    mmsnclr neighbors run/ photos/
    mmsnclr neighbors run/ photos/ --labels folders --out look/
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
@load_workers
@seed
@click.option('--csv', is_flag=True, help='Write features.csv, too.')
def embed(**arguments: Any) -> None:
    """Write the features of images, and plot them in 2-D.

    Writes features.npz (paths, features, labels, projection), projection.png
    and, if asked to, features.csv (an image per line). CHECKPOINT may be of
    any origin. IMAGES are folders, searched recursively, tars, text files with
    a path per line, or COCO json files.

    \b
    mmsnclr embed run/backbone.pth photos/ --out features/
    mmsnclr embed run/backbone.pth photos/ --out features/ --projection tsne
    """  # noqa: D301
    from ..api.embed import embed

    for path in filter(None, embed(**arguments)):
        say(f'wrote {path}')


@main.command(short_help='Compare checkpoints on labelled images.')
@click.argument('checkpoints', nargs=-1, required=True)
@click.argument('images')
@click.option('--out', required=True, metavar='DIR', help='Folder to write into.')
@labels
@val
@image_root
@load_workers
@seed
def evaluate(**arguments: Any) -> None:
    """Compare CHECKPOINTS by what their features tell of labelled IMAGES.

    Writes evaluation.md and evaluation.csv: accuracy of k-NN, linear and
    few-shot classifiers, with confidence intervals, and how far the first is
    ahead. CHECKPOINTS may be of any origin, or "random". IMAGES are a folder
    with a folder for each class, also below train/ and val/, which are then
    the parts, a csv (path,label), or others with --labels. What was computed
    before is not computed again.

    \b
    mmsnclr evaluate run/backbone.pth random labelled/ --out compared/
    mmsnclr evaluate a.pth b.pth list.txt --labels labels.csv --out compared/
    """  # noqa: D301
    from ..api.evaluate import evaluate

    files = evaluate(**arguments)
    for path in (files.markdown, files.csv):
        say(f'wrote {path}')
