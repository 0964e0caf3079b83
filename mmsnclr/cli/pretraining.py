"""From images to a backbone."""

import shlex
from pathlib import Path
from typing import Any

import click

from ..checkpoints import BACKBONE
from ..console import say
from ..datasets.views import VIEW_KINDS
from .group import main
from .options import amp, config_options, gpus, image_root, labels, load_workers, projection, seed


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
@click.option(
    '--views',
    type=click.Choice([*VIEW_KINDS]),
    help='strong for photographs, gray for images without colours, weak for crop and flip alone.'
    '  [default: strong or gray, by the images]',
)
@gpus
@click.option('--workers', type=int, help='Processes that load images, for each that trains.')
@labels
@image_root
@click.option('--min-edge', default=32, show_default=True, help='Leave smaller images out.')
@amp('Precision; auto is bfloat16, float16 where the device has none.  [default: auto]')
@click.option(
    '--cfg-options',
    metavar='KEY=VALUE',
    multiple=True,
    help='Override the config, as in model.head.neighbors=10; repeatable.',
)
@click.option('--resume', is_flag=True, help='Continue the run in --out.')
def pretrain(cfg_options: tuple[str, ...], **arguments: Any) -> None:
    """Learn a backbone from unlabelled images.

    IMAGES are folders, searched recursively, tars (shards/*.tar), text files
    with a path per line, csv files with a column `path`, or COCO json files.
    All settings follow from the images unless they are given; they are
    printed and written to OUT/config.py. Labels are for evaluation in the log
    alone.

    \b
    mmsnclr pretrain photos/ --out run/ --time 8h
    mmsnclr pretrain --out run/ --resume
    """  # noqa: D301
    from ..api.pretrain import pretrain

    out = arguments['out']
    try:
        checkpoint = pretrain(cfg_options=config_options(cfg_options), **arguments)
    except (KeyboardInterrupt, SystemExit):
        again = shlex.join(['mmsnclr', 'pretrain', '--out', out, '--resume'])
        say(
            f'interrupted; continue with: {again}'
            if Path(out, 'config.py').exists()
            else 'interrupted before training began: start again by the same command',
            err=True,
        )
        raise
    run, backbone = (shlex.quote(str(x)) for x in (out, checkpoint.with_name(BACKBONE)))
    say(
        f'\nThe backbone is in {backbone}. Next:\n'
        f'  mmsnclr report {run}\n'
        f'  mmsnclr neighbors {run} IMAGES\n'
        f'  mmsnclr detect TRAIN IMAGES --backbone {backbone} --out DIR\n'
        f'  mmsnclr classify LABELLED --backbone {backbone} --out DIR'
    )


@main.command(short_help='Write one HTML page about a pretraining run.')
@click.argument('run', metavar='DIR')
@click.option(
    '--images',
    multiple=True,
    help="Images for gallery and projection; repeatable.  [default: the run's]",
)
@labels
@image_root
@click.option('--queries', default=12, show_default=True, help='Images in the gallery.')
@click.option('--shown', default=8, show_default=True, help='Neighbours of each.')
@projection
@click.option(
    '--max-images', default=500, show_default=True, help='If there are more, draw so many.'
)
@load_workers
@seed
def report(**arguments: Any) -> None:
    """Write one HTML page about a pretraining run.

    DIR is a run's folder. DIR/report.html has a verdict in words, the curves
    of loss and health, a gallery of neighbours, a projection of the features,
    settings and environment. It opens without a network.

    \b
    mmsnclr report run/
    mmsnclr report run/ --images photos/val --labels folders
    """  # noqa: D301
    from ..api.report import report

    say(f'wrote {report(**arguments)}')
