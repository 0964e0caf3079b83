"""Train from a config of mmsnclr, mmpretrain or mmdet."""

import argparse
from pathlib import Path

from arguments import add_common_arguments, load_config
from mmengine.config import Config

from mmsnclr.engine import build_runner
from mmsnclr.engine.optim import AMP, set_amp


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from a checkpoint, or from the latest in the work directory',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const=AMP[0],
        choices=AMP,
        help="precision in the place of the config's; alone, after the config, it is auto: "
        'bfloat16 where the device has it, else float16; off is float32',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the actual over the intended batch size',
    )
    parser.add_argument(
        '--allow-partial-pretrained',
        action='store_true',
        help='train on where a Pretrained checkpoint fills only part of its module',
    )
    args = parser.parse_args()
    if args.resume not in (None, 'auto') and not Path(args.resume).is_file():
        parser.error(f'--resume: no checkpoint at {args.resume!r}')
    return args


def set_training(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the flags that only training has."""
    if args.resume == 'auto' and not cfg.get('resume'):
        # With resume it would be a checkpoint to go on from; these are weights to start from.
        cfg.start_from = cfg.get('load_from')
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    cfg.allow_partial_pretrained = args.allow_partial_pretrained
    if args.amp is not None:
        set_amp(cfg, args.amp)
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg or 'base_batch_size' not in cfg.auto_scale_lr:
            raise ValueError(
                f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size, the batch '
                'size that its learning rate is meant for'
            )
        cfg.auto_scale_lr.enable = True


def main() -> None:
    """Train."""
    args = parse_args()
    cfg = load_config(args)
    set_training(cfg, args)
    build_runner(cfg).train()


if __name__ == '__main__':
    main()
