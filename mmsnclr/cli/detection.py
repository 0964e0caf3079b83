"""From a backbone to a detector, and what it finds."""

import shlex
from typing import Any

import click

from ..console import say
from .group import main
from .options import amp, compare, fractions, gpus, image_root, seed, seeds


@main.command(short_help='Train a detector on images with boxes or masks.')
@click.argument('train_json', metavar='TRAIN')
@click.argument('images', required=False)
@click.option(
    '--backbone', metavar='CHECKPOINT', required=True, help='With feature maps, or "random".'
)
@click.option('--out', metavar='DIR', required=True, help='Where results go.')
@click.option('--val', 'val_json', metavar='SET', help='Validate on this, not on a fifth.')
@click.option('--val-images', metavar='DIR', help='Images of --val. [default: IMAGES]')
@compare
@fractions
@seeds
@click.option('--size', type=int, help="Longer side in pixels. [default: the images']")
@click.option('--iterations', type=int, help='Training steps. [default: by number of images]')
@click.option('--epochs', type=float, help='The same in passes over the images.')
@click.option(
    '--batch',
    type=int,
    help='Images in a step, of all processes. [default: 4, or the next multiple of --gpus]',
)
@click.option('--lr', type=float, help='Learning rate. [default: by backbone and batch]')
@click.option('--flip/--no-flip', default=True, help='Mirror images at random; not for text.')
@click.option('--skip-bad', is_flag=True, help='Leave wrong images and annotations out.')
@gpus
@click.option('--workers', type=int, default=2, show_default=True, help='To load, per GPU.')
@amp('Precision; auto and fp16 are float16 on CUDA, bf16 is refused.  [default: off]')
@seed
@click.option('--resume', is_flag=True, help='Continue; the rest of the command as before.')
def detect(**options: Any) -> None:
    """Train Mask R-CNN on images with masks, from a pretrained backbone.

    TRAIN is a json file in COCO's format, whose file names start from the
    folder IMAGES; the data.yaml of a YOLO set; or Pascal VOC's folder of xml
    files. The latter two tell where their images are, and which are for
    validation. If one annotation has no mask it is Faster R-CNN. Mistakes are listed first.
    DIR/summary.md has the result, with --fractions or --seeds what each start
    is worth; tools/train.py DIR/config.py --work-dir ELSEWHERE trains again.

    \b
    mmsnclr detect my.json photos/ --backbone run/backbone.pth --out detector/
    mmsnclr detect data.yaml --backbone run/backbone.pth --out detector/
    mmsnclr detect my.json photos/ --backbone run/backbone.pth --out both/ \\
        --val val.json --compare random --fractions 5,10,25,100 --seeds 3
    """  # noqa: D301
    from ..api.detect import Detection, detect

    made = detect(**options)
    if not isinstance(made, Detection):
        return
    checkpoint = shlex.quote(str(made.checkpoint))
    say(f'\nNext:\n  mmsnclr predict {checkpoint} IMAGES --out DIR')


@main.command(short_help='Find objects in images, or classify them.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', required=True, help='Where pictures and results go.')
@image_root
@click.option(
    '--threshold',
    type=float,
    default=0.3,
    show_default=True,
    help='Lowest score of an object to keep.',
)
@click.option(
    '--batch', type=int, help='Images to look at at once. [default: 1; 32 by a classifier]'
)
def predict(**arguments: Any) -> None:
    """Find objects in IMAGES by the detector in CHECKPOINT, or classify them.

    CHECKPOINT is the folder that detect or classify wrote, or a checkpoint in it.
    IMAGES are image files, folders, searched recursively, tars, text files with
    a path per line, or COCO json files. DIR receives predictions.json, in COCO's
    result format with file names, and pictures/ with boxes and masks drawn; of
    a classifier, predictions.csv with class and probabilities.

    \b
    mmsnclr predict detector/ photos/ --out found/
    """  # noqa: D301
    from ..api.predict import predict

    predict(**arguments)
