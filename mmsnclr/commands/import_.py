"""`mmsnclr import`."""

import click
from mmengine.logging import MMLogger

from ..api.import_ import import_checkpoint


@click.command()
@click.argument('checkpoint')
@click.argument('out')
@click.option('--heads', type=int, help="Attention heads of a ViT. [default: its origin's]")
@click.option('--timm-model', metavar='NAME', help='The timm model that the weights are of.')
def command(checkpoint: str, out: str, heads: int | None, timm_model: str | None) -> None:
    """Read a backbone of another library or code, write a checkpoint to start from.

    CHECKPOINT may be of SNCLR's released code, of MoCo v3, or a ResNet or ViT
    of torchvision or timm (.pth or .safetensors); which, its keys tell. Any
    other model of timm is read if it is named. OUT suits `--init` and
    `--backbone` of the other verbs, and `init_cfg` of a config.

    \b
    mmsnclr import vit-s-300ep.pth.tar snclr_vit-s.pth
    mmsnclr import model.safetensors convnext.pth --timm-model convnext_tiny
    """  # noqa: D301  click wants the backspace itself
    MMLogger.get_instance('import', log_level='WARNING')  # not a line for each timm stage
    click.echo(import_checkpoint(checkpoint, out, heads, timm_model))
