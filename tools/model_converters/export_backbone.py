"""Write a checkpoint's backbone as a file that mmpretrain/mmdet, torchvision or timm loads."""

import argparse

from mmengine.logging import MMLogger

from mmsnclr.utils.backbone_export import NAMINGS, export_backbone


def main() -> None:
    """Export, and say how to load what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a training')
    parser.add_argument('out', help='file to write')
    parser.add_argument(
        '--to', choices=NAMINGS, required=True, help="naming; mmpretrain's is mmdet's too"
    )
    args = parser.parse_args()
    MMLogger.get_instance('export', log_level='WARNING')  # not a line for each timm stage
    print(export_backbone(args.checkpoint, args.out, args.to))


if __name__ == '__main__':
    main()
