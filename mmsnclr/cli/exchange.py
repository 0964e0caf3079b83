"""Backbones of and for other libraries."""

from typing import Any

import click

from ..backbones.exporting import TARGETS
from ..console import say
from .group import main


@main.command(short_help='Write a backbone for another library.')
@click.argument('checkpoint')
@click.argument('out')
@click.option('--to', type=click.Choice(TARGETS), required=True, help='What is to load OUT.')
def export(**arguments: Any) -> None:
    """Write the backbone in CHECKPOINT to the file OUT for another library.

    The file is written only if the library's model, loaded with it, gives the
    same output. The line that is printed says how to load it. For onnx a
    classifier is written with its head.

    \b
    mmsnclr export run/backbone.pth theirs.pth --to timm
    mmsnclr export run/backbone.pth backbone.onnx --to onnx
    """  # noqa: D301
    from ..api import export

    say(export(**arguments))


@main.command('import', short_help='Read a backbone of another library or code.')
@click.argument('checkpoint')
@click.argument('out')
@click.option('--heads', type=int, help="Attention heads of a ViT. [default: its origin's]")
@click.option('--timm-model', metavar='NAME', help='The timm model that the weights are of.')
def import_(**arguments: Any) -> None:
    """Read a backbone of another library or code, write a checkpoint to start from.

    CHECKPOINT (.pth or .safetensors) may be of SNCLR's released code, MoCo v1
    to v3, SwAV, DINO, MAE, Lightly, OpenMMLab or a detector of torchvision, or
    a ResNet or ViT of torchvision, timm or mmpretrain; which, its names tell.
    Any other model of timm (also DINOv2, I-JEPA) is read if it is named. OUT
    suits `--init` and `--backbone` of the other verbs, and `init_cfg` of a
    config.

    \b
    mmsnclr import vit-s-300ep.pth.tar snclr_vit-s.pth
    mmsnclr import model.safetensors convnext.pth --timm-model convnext_tiny
    """  # noqa: D301
    from ..api import import_checkpoint

    say(import_checkpoint(**arguments))
