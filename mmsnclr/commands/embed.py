"""`mmsnclr embed`."""

import click


@click.command()
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', required=True, metavar='DIR', help='Folder to write into.')
@click.option(
    '--labels',
    metavar='folders|CSV',
    help='Classes to write and to colour by: the folder names, or a csv (path,label).',
)
@click.option(
    '--projection',
    type=click.Choice(['pca', 'tsne']),
    default='pca',
    show_default=True,
    help='How to get to two dimensions.',
)
@click.option('--max-images', type=int, help='If there are more, draw so many at random.')
@click.option('--seed', default=0, show_default=True, help='Seed of choice and projection.')
def command(**arguments) -> None:
    """Write the features of images, and plot them in 2-D.

    Writes features.npz (paths, features, labels, projection), features.csv (an
    image per line) and projection.png. IMAGES are folders, searched
    recursively, text files with a path per line, or COCO json files.

    \b
    mmsnclr embed run/epoch_100.pth photos/ --out features/
    mmsnclr embed run/epoch_100.pth photos/ --out features/ --projection tsne
    """  # noqa: D301
    from ..api.embed import embed

    for path in embed(**arguments):
        click.echo(f'wrote {path}')
