"""`mmsnclr pretrain`."""

import ast

import click


def _value(text: str):
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@click.command()
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
@click.option('--batch', type=int, help='Images of a step.')
@click.option('--size', type=int, help='Edge of the views, in pixels.')
@click.option('--workers', type=int, help='Processes that load images.')
@click.option(
    '--labels',
    metavar='folders|CSV',
    help='Labels to log purity with: the folder names, or a csv (path,label).',
)
@click.option('--image-root', metavar='DIR', help='Where paths in files start, if not beside them.')
@click.option('--min-edge', default=32, show_default=True, help='Leave smaller images out.')
@click.option('--amp/--no-amp', default=True, help='Mixed precision, which is the default.')
@click.option(
    '--cfg-options',
    metavar='KEY=VALUE',
    multiple=True,
    help='Override the config, as in model.head.neighbors=10; repeatable.',
)
@click.option('--resume', is_flag=True, help='Continue the run in --out.')
def command(cfg_options: tuple[str, ...], **arguments) -> None:
    """Learn a backbone from unlabelled images.

    IMAGES are folders, searched recursively, text files with a path per line,
    or COCO json files. All settings follow from the images unless they are
    given; they are printed and written to OUT/config.py.

    \b
    mmsnclr pretrain photos/ --out run/ --time 8h
    mmsnclr pretrain --out run/ --resume
    """  # noqa: D301
    from ..api.pretrain import pretrain

    pairs = [option.partition('=') for option in cfg_options]
    if not all(equals for _, equals, _ in pairs):
        raise click.UsageError('--cfg-options takes KEY=VALUE')
    out = arguments['out']
    try:
        checkpoint = pretrain(
            cfg_options={key: _value(text) for key, _, text in pairs}, **arguments
        )
    except (KeyboardInterrupt, SystemExit):
        click.echo(f'interrupted; continue with: mmsnclr pretrain --out {out} --resume', err=True)
        raise
    click.echo(
        f'\nThe backbone is in {checkpoint}. Next:\n'
        f'  mmsnclr report {out}\n'
        f'  mmsnclr neighbors {checkpoint} IMAGES\n'
        f'  mmsnclr detect TRAIN_JSON IMAGES --backbone {checkpoint} --out DIR'
    )
