"""What the command-line tools share."""

import argparse
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction

from .requirements import check_detection_requirements


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share.

    Args:
        parser: The tool's parser.
    """
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings of the config to override, such as model.head.neighbors=10',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Load a config and apply the arguments of :func:`add_common_arguments`.

    Args:
        args: The parsed command line.

    Returns:
        The config, complete for a runner.

    Raises:
        ImportError: If the config is a detector's and mmdet or mmcv's compiled
            operators are missing.
    """
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    if cfg.get('default_scope') == 'mmdet':
        check_detection_requirements()
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            _set_collate(cfg[name], cfg.get('default_scope'))
    return cfg


def _set_collate(loader: ConfigDict, scope: str | None) -> None:
    if scope != 'mmdet':
        # mmpretrain's models want tensors stacked, mmengine's default is lists.
        loader.setdefault('collate_fn', dict(type='default_collate'))
    if isinstance(loader.get('collate_fn'), dict):
        # Inherited by `_base_ = 'mmpretrain::...'`; mmengine would pass it to the function.
        loader.collate_fn.pop('_scope_', None)
