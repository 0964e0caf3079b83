"""Evaluate a checkpoint by a config of mmsnclr, mmpretrain or mmdet."""

import argparse
from pathlib import Path

from arguments import add_common_arguments, load_config

from mmsnclr.engine import build_runner


def main() -> None:
    """Test."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    args = parser.parse_args()
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        parser.error(f'no checkpoint at {args.checkpoint!r}')
    cfg = load_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False  # which the verbs' configs have
    build_runner(cfg).test()


if __name__ == '__main__':
    main()
