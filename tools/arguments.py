"""What the command-line tools share."""

import argparse
from pathlib import Path

from mmengine.config import Config

from mmsnclr.cli.options import ConfigOptions
from mmsnclr.requirements import check_detection_requirements


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a config and override its settings.

    Args:
        parser: The tool's parser.
    """
    parser.set_defaults(launcher='none', work_dir=None)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings of the config to override, such as model.head.neighbors=10',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share.

    Args:
        parser: The tool's parser.
    """
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Load a config and apply the arguments that the tool has.

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
    return cfg
