"""`mmsnclr detect`."""

from typing import Any

import click


@click.command()
@click.argument('train_json')
@click.argument('images')
@click.option('--backbone', metavar='CHECKPOINT', required=True, help='Checkpoint with a ResNet.')
@click.option('--out', metavar='DIR', required=True, help='Where results go.')
@click.option('--val', 'val_json', metavar='JSON', help='Validate on this, not on a fifth.')
@click.option('--val-images', metavar='DIR', help='Images of --val. [default: IMAGES]')
@click.option('--compare', metavar='CHECKPOINT', help='Train the same from it, or from "random".')
@click.option('--size', type=int, help="Longer side in pixels. [default: the images']")
@click.option('--iterations', type=int, help='Training steps. [default: by number of images]')
@click.option('--epochs', type=float, help='The same in passes over the images.')
@click.option('--batch', type=int, default=4, show_default=True, help='Images in a step.')
@click.option('--lr', type=float, help='Learning rate. [default: by batch]')
@click.option('--flip/--no-flip', default=True, help='Mirror images at random; not for text.')
@click.option('--skip-bad', is_flag=True, help='Leave wrong images and annotations out.')
@click.option('--workers', type=int, default=2, show_default=True, help='Loading processes.')
@click.option('--seed', type=int, default=0, show_default=True)
@click.option('--resume', is_flag=True, help='Continue; the rest of the command as before.')
def command(**options: Any) -> None:
    """Train Mask R-CNN on a COCO-format set, from a pretrained backbone.

    File names in TRAIN_JSON start from the folder IMAGES. Without masks it is
    Faster R-CNN. Mistakes in the json are listed first. DIR/summary.md has the
    result; tools/train.py DIR/config.py --work-dir ELSEWHERE trains it again.

    \b
    mmsnclr detect my.json photos/ --backbone epoch_100.pth --out detector/
    mmsnclr detect my.json photos/ --backbone epoch_100.pth --out both/ \\
        --val val.json --compare random
    """  # noqa: D301  click wants the backspace itself
    from ..api.detect import detect

    detect(**options, say=click.echo)
