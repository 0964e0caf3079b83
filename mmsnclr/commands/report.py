"""`mmsnclr report`."""

import click


@click.command()
@click.argument('run', metavar='DIR')
@click.option(
    '--images',
    multiple=True,
    help="Images for gallery and projection; repeatable.  [default: the run's]",
)
@click.option(
    '--labels',
    metavar='folders|CSV',
    help='Classes to compare with: the folder names, or a csv (path,label).',
)
@click.option('--queries', default=12, show_default=True, help='Images in the gallery.')
@click.option('--shown', default=8, show_default=True, help='Neighbours of each.')
@click.option(
    '--projection',
    type=click.Choice(['pca', 'tsne']),
    default='pca',
    show_default=True,
    help='How to get to two dimensions.',
)
@click.option(
    '--max-images', default=500, show_default=True, help='If there are more, draw so many.'
)
@click.option('--seed', default=0, show_default=True, help='Seed of the choices.')
def command(**arguments) -> None:
    """Write one HTML page about a pretraining run.

    DIR is a run's folder. DIR/report.html has a verdict in words, the curves
    of loss and health, a gallery of neighbours, a projection of the features,
    settings and environment. It opens without a network.

    \b
    mmsnclr report run/
    mmsnclr report run/ --images photos/val --labels folders
    """  # noqa: D301
    from ..api.report import report

    click.echo(f'wrote {report(**arguments)}')
