"""k-NN accuracy of a backbone: a classification config's data, any checkpoint's backbone."""

import argparse

from mmsnclr.evaluation import evaluate_knn
from mmsnclr.utils.cli import add_common_arguments, load_config


def main() -> None:
    """Print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help="checkpoint; the config's by default")
    parser.add_argument('--prefix', default='backbone.', help="prefix of the backbone's keys")
    parser.add_argument('-k', type=int, default=20, help='number of voting neighbours')
    parser.add_argument('--temperature', type=float, default=0.07)
    args = parser.parse_args()
    cfg = load_config(args)
    if args.checkpoint:
        cfg.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=args.checkpoint, prefix=args.prefix
        )
    print(f'k-NN top-1 (k = {args.k}): {evaluate_knn(cfg, args.k, args.temperature):.2f} %')


if __name__ == '__main__':
    main()
