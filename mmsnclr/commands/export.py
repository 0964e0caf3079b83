"""`mmsnclr export`."""

import click
from mmengine.logging import MMLogger

from ..api.export import TARGETS, export


@click.command()
@click.argument('checkpoint')
@click.argument('out')
@click.option('--to', type=click.Choice(TARGETS), required=True, help='What is to load OUT.')
def command(checkpoint: str, out: str, to: str) -> None:
    """Write the backbone in CHECKPOINT to the file OUT for another library.

    The file is written only if the library's model, loaded with it, gives the
    same output. The line that is printed says how to load it.

    \b
    mmsnclr export run/epoch_100.pth backbone.pth --to timm
    mmsnclr export run/epoch_100.pth backbone.onnx --to onnx
    """  # noqa: D301  click wants the backspace itself
    MMLogger.get_instance('export', log_level='WARNING')  # not a line for each timm stage
    click.echo(export(checkpoint, out, to))
