"""`mmsnclr predict`."""

import click


@click.command()
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', required=True, help='Where pictures and results go.')
@click.option(
    '--threshold', type=float, default=0.3, show_default=True, help='Lowest score to keep.'
)
def command(checkpoint: str, images: tuple[str, ...], out: str, threshold: float) -> None:
    """Find objects in IMAGES by the detector in CHECKPOINT.

    IMAGES are image files, folders, searched recursively, text files with a
    path per line, or COCO json files.
    DIR receives predictions.json, in COCO's result format with file names,
    and pictures/ with boxes and masks drawn.

    \b
    mmsnclr predict detector/training/iter_2000.pth photos/ --out found/
    """  # noqa: D301  click wants the backspace itself
    from ..api.predict import predict

    predict(checkpoint, images, out, threshold, say=click.echo)
