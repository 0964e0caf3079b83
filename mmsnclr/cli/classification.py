"""From a backbone to a classifier."""

import shlex
from typing import Any

import click

from ..console import say
from .group import main
from .options import amp, compare, fractions, gpus, image_root, labels, seed, seeds, val


@main.command(short_help='Train a classifier on labelled images.')
@click.argument('images')
@click.option('--backbone', metavar='CHECKPOINT', required=True, help='Any, or "random".')
@click.option('--out', metavar='DIR', required=True, help='Where results go.')
@labels
@val
@image_root
@compare
@fractions
@seeds
@click.option('--frozen', is_flag=True, help='Train a linear classifier alone.')
@click.option('--size', type=int, help="Edge in pixels. [default: the backbone's]")
@click.option('--epochs', type=int, help='How often each image is seen.')
@click.option('--batch', type=int, help='Images in a step, of all processes.')
@click.option('--lr', type=float, help='Learning rate. [default: by backbone and batch]')
@click.option('--flip/--no-flip', default=True, help='Mirror images at random; not for text.')
@gpus
@click.option('--workers', type=int, default=2, show_default=True, help='To load, per GPU.')
@amp('Precision; auto is bfloat16, float16 where the device has none.  [default: auto]')
@seed
@click.option('--resume', is_flag=True, help='Continue; the rest of the command as before.')
def classify(**options: Any) -> None:
    """Train a classifier on labelled images, from a pretrained backbone.

    IMAGES are a folder with a folder for each class, also below train/ and
    val/, which are then the parts, a csv (path,label), or others with
    --labels. DIR/summary.md has the result; tools/train.py DIR/config.py
    --work-dir ELSEWHERE trains it again. With --fractions or --seeds, a table and
    a plot tell what each start is worth.

    \b
    mmsnclr classify labelled/ --backbone epoch_100.pth --out classifier/
    mmsnclr classify train.csv --backbone epoch_100.pth --out both/ \\
        --val val.csv --compare random --fractions 5,10,25,100 --seeds 3
    """  # noqa: D301
    from ..api.classify import Classification, classify

    made = classify(**options)
    if not isinstance(made, Classification):
        return
    checkpoint = shlex.quote(str(made.checkpoint))
    say(
        f'\nNext:\n'
        f'  mmsnclr predict {checkpoint} IMAGES --out DIR\n'
        f'  mmsnclr export {checkpoint} classifier.onnx --to onnx'
    )
