"""The `mmsnclr` command: each verb is a function of `mmsnclr.api`."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import click
from mmengine.config import DictAction

from .backbones.exporting import TARGETS
from .console import say
from .engine.optim import AMP


class _Verbs(click.Group):
    """Lists the verbs in the order of their use, and shows errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_Verbs,
    subcommand_metavar='VERB [ARGS]...',
    context_settings=dict(help_option_names=['-h', '--help']),
)
@click.version_option(package_name='mmsnclr')
def main() -> None:
    """A folder of images in, a better detector out.

    \b
    mmsnclr pretrain photos/ --out run/
    mmsnclr pretrain --help
    """  # noqa: D301  click wants the backspace itself


_labels = click.option(
    '--labels',
    metavar='folders|CSV',
    help='Classes of the images: the folder names, or a csv (path,label).',
)
_image_root = click.option(
    '--image-root', metavar='DIR', help='Where paths in files start, if not beside them.'
)
_projection = click.option(
    '--projection',
    type=click.Choice(['pca', 'tsne']),
    default='pca',
    show_default=True,
    help='How to get to two dimensions.',
)
_max_images = click.option(
    '--max-images', type=int, help='If there are more, draw so many at random.'
)
_gpus = click.option(
    '--gpus', type=int, help='Processes that train. [default: one for each GPU; 1 on a CPU]'
)
_seed = click.option('--seed', default=0, show_default=True, help='Seed of all that is random.')


@main.command(short_help='Learn a backbone from unlabelled images.')
@click.argument('images', nargs=-1)
@click.option('--out', required=True, help='Folder for config, logs and checkpoints.')
@click.option(
    '--backbone',
    default='r50',
    show_default=True,
    metavar='NAME',
    help='r18, r34, r50, r101, vit-s, vit-b or a timm model.',
)
@click.option(
    '--init',
    metavar='FILE',
    help='Start from a checkpoint of torchvision, timm, mmpretrain or an earlier run.',
)
@click.option('--epochs', type=int, help='How often each image is seen.')
@click.option('--time', metavar='TIME', help='Time to spend, such as 30m or 1h30m.')
@click.option('--batch', type=int, help='Images of a step, of all processes.')
@click.option('--size', type=int, help='Edge of the views, in pixels.')
@_gpus
@click.option('--workers', type=int, help='Processes that load images, for each that trains.')
@_labels
@_image_root
@click.option('--min-edge', default=32, show_default=True, help='Leave smaller images out.')
@click.option(
    '--amp',
    type=click.Choice(AMP),
    is_flag=False,
    flag_value=AMP[0],
    help='Precision; auto is bfloat16, float16 where the device has none.  [default: auto]',
)
@click.option(
    '--cfg-options',
    metavar='KEY=VALUE',
    multiple=True,
    help='Override the config, as in model.head.neighbors=10; repeatable.',
)
@click.option('--resume', is_flag=True, help='Continue the run in --out.')
def pretrain(cfg_options: tuple[str, ...], **arguments: Any) -> None:
    """Learn a backbone from unlabelled images.

    IMAGES are folders, searched recursively, text files with a path per line,
    or COCO json files. All settings follow from the images unless they are
    given; they are printed and written to OUT/config.py. Labels are for
    evaluation in the log alone.

    \b
    mmsnclr pretrain photos/ --out run/ --time 8h
    mmsnclr pretrain --out run/ --resume
    """  # noqa: D301
    from .api.pretrain import pretrain

    out = arguments['out']
    try:
        checkpoint = pretrain(cfg_options=_settings(cfg_options), **arguments)
    except (KeyboardInterrupt, SystemExit):
        again = shlex.join(['mmsnclr', 'pretrain', '--out', out, '--resume'])
        say(
            f'interrupted; continue with: {again}'
            if Path(out, 'config.py').exists()
            else 'interrupted before training began: start again by the same command',
            err=True,
        )
        raise
    backbone = shlex.quote(str(checkpoint))
    say(
        f'\nThe backbone is in {checkpoint}. Next:\n'
        f'  mmsnclr report {shlex.quote(out)}\n'
        f'  mmsnclr neighbors {backbone} IMAGES\n'
        f'  mmsnclr detect TRAIN_JSON IMAGES --backbone {backbone} --out DIR'
    )


def _settings(options: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the form ``KEY=VALUE``, as ``tools/train.py`` reads them."""
    if not all(option.find('=') > 0 for option in options):
        raise click.UsageError('--cfg-options takes KEY=VALUE')
    found = argparse.Namespace()
    try:
        DictAction([], 'settings')(None, found, options)
    except AssertionError as error:
        raise click.UsageError(f'--cfg-options: {error}') from error
    return found.settings


@main.command(short_help='Draw images with their nearest neighbours.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', help="Folder to write into.  [default: the checkpoint's]")
@_labels
@_image_root
@click.option('--queries', default=40, show_default=True, help='Images to look at.')
@click.option('--shown', default=10, show_default=True, help='Neighbours of each.')
@_max_images
@_seed
def neighbors(**arguments: Any) -> None:
    """Draw images with their nearest neighbours.

    Shows by which images, and how much, the model would have supported each
    query: neighbors.html, which can be searched, and neighbors.png. IMAGES are
    folders, searched recursively, text files with a path per line, or COCO
    json files.

    \b
    mmsnclr neighbors run/epoch_100.pth photos/
    mmsnclr neighbors run/epoch_100.pth photos/ --labels folders --out look/
    """  # noqa: D301
    from .api.neighbors import neighbors

    for path in neighbors(**arguments):
        say(f'wrote {path}')


@main.command(short_help='Write the features of images, and plot them in 2-D.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', required=True, metavar='DIR', help='Folder to write into.')
@_labels
@_image_root
@_projection
@_max_images
@_seed
@click.option('--csv', is_flag=True, help='Write features.csv, too.')
def embed(**arguments: Any) -> None:
    """Write the features of images, and plot them in 2-D.

    Writes features.npz (paths, features, labels, projection), projection.png
    and, if asked to, features.csv (an image per line). IMAGES are folders,
    searched recursively, text files with a path per line, or COCO json files.

    \b
    mmsnclr embed run/epoch_100.pth photos/ --out features/
    mmsnclr embed run/epoch_100.pth photos/ --out features/ --projection tsne
    """  # noqa: D301
    from .api.embed import embed

    for path in filter(None, embed(**arguments)):
        say(f'wrote {path}')


@main.command(short_help='Write one HTML page about a pretraining run.')
@click.argument('run', metavar='DIR')
@click.option(
    '--images',
    multiple=True,
    help="Images for gallery and projection; repeatable.  [default: the run's]",
)
@_labels
@_image_root
@click.option('--queries', default=12, show_default=True, help='Images in the gallery.')
@click.option('--shown', default=8, show_default=True, help='Neighbours of each.')
@_projection
@click.option(
    '--max-images', default=500, show_default=True, help='If there are more, draw so many.'
)
@_seed
def report(**arguments: Any) -> None:
    """Write one HTML page about a pretraining run.

    DIR is a run's folder. DIR/report.html has a verdict in words, the curves
    of loss and health, a gallery of neighbours, a projection of the features,
    settings and environment. It opens without a network.

    \b
    mmsnclr report run/
    mmsnclr report run/ --images photos/val --labels folders
    """  # noqa: D301
    from .api.report import report

    say(f'wrote {report(**arguments)}')


@main.command(short_help='Write a backbone for another library.')
@click.argument('checkpoint')
@click.argument('out')
@click.option('--to', type=click.Choice(TARGETS), required=True, help='What is to load OUT.')
def export(**arguments: Any) -> None:
    """Write the backbone in CHECKPOINT to the file OUT for another library.

    The file is written only if the library's model, loaded with it, gives the
    same output. The line that is printed says how to load it.

    \b
    mmsnclr export run/epoch_100.pth backbone.pth --to timm
    mmsnclr export run/epoch_100.pth backbone.onnx --to onnx
    """  # noqa: D301
    from .api import export

    say(export(**arguments))


@main.command('import', short_help='Read a backbone of another library or code.')
@click.argument('checkpoint')
@click.argument('out')
@click.option('--heads', type=int, help="Attention heads of a ViT. [default: its origin's]")
@click.option('--timm-model', metavar='NAME', help='The timm model that the weights are of.')
def import_(**arguments: Any) -> None:
    """Read a backbone of another library or code, write a checkpoint to start from.

    CHECKPOINT may be of SNCLR's released code, of MoCo v3, or a ResNet or ViT
    of torchvision or timm (.pth or .safetensors); which, its keys tell. Any
    other model of timm is read if it is named. OUT suits `--init` and
    `--backbone` of the other verbs, and `init_cfg` of a config.

    \b
    mmsnclr import vit-s-300ep.pth.tar snclr_vit-s.pth
    mmsnclr import model.safetensors convnext.pth --timm-model convnext_tiny
    """  # noqa: D301
    from .api import import_checkpoint

    say(import_checkpoint(**arguments))


@main.command(short_help='Train a detector on a COCO-format set.')
@click.argument('train_json')
@click.argument('images')
@click.option('--backbone', metavar='CHECKPOINT', required=True, help='With a ResNet, or "random".')
@click.option('--out', metavar='DIR', required=True, help='Where results go.')
@click.option('--val', 'val_json', metavar='JSON', help='Validate on this, not on a fifth.')
@click.option('--val-images', metavar='DIR', help='Images of --val. [default: IMAGES]')
@click.option('--compare', metavar='CHECKPOINT', help='Train the same from it, or from "random".')
@click.option('--size', type=int, help="Longer side in pixels. [default: the images']")
@click.option('--iterations', type=int, help='Training steps. [default: by number of images]')
@click.option('--epochs', type=float, help='The same in passes over the images.')
@click.option(
    '--batch',
    type=int,
    help='Images in a step, of all processes. [default: 4, or the next multiple of --gpus]',
)
@click.option('--lr', type=float, help='Learning rate. [default: by batch]')
@click.option('--flip/--no-flip', default=True, help='Mirror images at random; not for text.')
@click.option('--skip-bad', is_flag=True, help='Leave wrong images and annotations out.')
@_gpus
@click.option('--workers', type=int, default=2, show_default=True, help='To load, per GPU.')
@click.option(
    '--amp',
    type=click.Choice(AMP),
    is_flag=False,
    flag_value=AMP[0],
    help='Precision; auto and fp16 are float16 on CUDA, bf16 is refused.  [default: off]',
)
@_seed
@click.option('--resume', is_flag=True, help='Continue; the rest of the command as before.')
def detect(**options: Any) -> None:
    """Train Mask R-CNN on a COCO-format set, from a pretrained backbone.

    File names in TRAIN_JSON start from the folder IMAGES. Without masks it is
    Faster R-CNN. Mistakes in the json are listed first. DIR/summary.md has the
    result; tools/train.py DIR/config.py --work-dir ELSEWHERE trains it again.

    \b
    mmsnclr detect my.json photos/ --backbone epoch_100.pth --out detector/
    mmsnclr detect my.json photos/ --backbone epoch_100.pth --out both/ \\
        --val val.json --compare random
    """  # noqa: D301
    from .api.detect import detect

    detect(**options)


@main.command(short_help='Find objects in images with a trained detector.')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True)
@click.option('--out', metavar='DIR', required=True, help='Where pictures and results go.')
@_image_root
@click.option(
    '--threshold', type=float, default=0.3, show_default=True, help='Lowest score to keep.'
)
def predict(**arguments: Any) -> None:
    """Find objects in IMAGES by the detector in CHECKPOINT.

    IMAGES are image files, folders, searched recursively, text files with a
    path per line, or COCO json files.
    DIR receives predictions.json, in COCO's result format with file names,
    and pictures/ with boxes and masks drawn.

    \b
    mmsnclr predict detector/training/iter_2000.pth photos/ --out found/
    """  # noqa: D301
    from .api.predict import predict

    predict(**arguments)
