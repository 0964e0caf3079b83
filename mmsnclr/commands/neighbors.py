"""`mmsnclr neighbors`."""

import click


@click.command()
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', help="Folder to write into.  [default: the checkpoint's]")
@click.option(
    '--labels',
    metavar='folders|CSV',
    help='Classes to compare with: the folder names, or a csv (path,label).',
)
@click.option('--queries', default=40, show_default=True, help='Images to look at.')
@click.option('--shown', default=10, show_default=True, help='Neighbours of each.')
@click.option('--max-images', type=int, help='If there are more, draw so many at random.')
@click.option('--seed', default=0, show_default=True, help='Seed of the choices.')
def command(**arguments) -> None:
    """Draw images with their nearest neighbours.

    Shows by which images, and how much, the model would have supported each
    query: neighbors.html, which can be searched, and neighbors.png. IMAGES are
    folders, searched recursively, text files with a path per line, or COCO
    json files.

    \b
    mmsnclr neighbors run/epoch_100.pth photos/
    mmsnclr neighbors run/epoch_100.pth photos/ --labels folders --out look/
    """  # noqa: D301
    from ..api.neighbors import neighbors

    for path in neighbors(**arguments):
        click.echo(f'wrote {path}')
