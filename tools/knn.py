"""k-NN accuracy of a backbone: a classification config's data, any checkpoint's backbone."""

import argparse

from arguments import add_config_arguments, load_config

from mmsnclr.evaluation import evaluate_knn


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help="checkpoint; the config's by default")
    parser.add_argument('--prefix', default='backbone.', help="prefix of the backbone's keys")
    parser.add_argument(
        '-k', type=int, nargs='+', default=[20, 200], help='numbers of voting neighbours to try'
    )
    parser.add_argument('--temperature', type=float, default=0.07)
    args = parser.parse_args()
    cfg = load_config(args)
    if args.checkpoint:
        cfg.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=args.checkpoint, prefix=args.prefix
        )
    for k, accuracy in evaluate_knn(cfg, args.k, args.temperature).items():
        print(f'k-NN top-1 (k = {k}): {accuracy:.2f} %')


if __name__ == '__main__':
    main()
