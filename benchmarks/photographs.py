"""Is a detector of photographs better for its pretraining, and from how many labels on?

    python benchmarks/photographs.py DATA

DATA has train.json and test.json in COCO's format beside the folders train/ and test/. The
photographs in train/ pretrain a narrow ResNet-18 by each method, without labels; from each of them,
and from random weights, detectors are trained on parts of the boxes and compared on test/. The
same command goes on with what was interrupted; finished trainings are not repeated.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmsnclr.api import detect, pretrain
from mmsnclr.api.study import Study

WIDTH = 16
NARROW = {
    'model.backbone.stem_channels': WIDTH,
    'model.backbone.base_channels': WIDTH,
    'model.neck.in_channels': 8 * WIDTH,
}
# What each method changes in the settings of `mmsnclr pretrain`. MoCo v3's loss is SNCLR's without
# neighbours.
METHODS = {
    'sum_log': {},
    'log_sum': {'model.head.loss.form': 'log_sum'},
    'moco_v3': {'custom_hooks.0.warmup_epochs': 10**6},
}


def pretrain_all(
    images: Path, out: Path, methods: Sequence[str], size: int, epochs: int
) -> list[Path]:
    """Pretrain by each method, or what is left to do of it.

    Args:
        images: Folder of photographs.
        out: Folder that gets one folder for each method.
        methods: Names in ``METHODS``.
        size: Edge of the views, in pixels.
        epochs: How often each photograph is seen.

    Returns:
        The backbones.
    """
    backbones = []
    for name in methods:
        pretrain(
            [images],
            out / name,
            backbone='r18',
            size=size,
            epochs=epochs,
            cfg_options=NARROW | METHODS[name],
            resume=(out / name / 'config.py').exists(),
        )
        backbones.append(out / name / 'backbone.pth')
    return backbones


def leave_out_masks(annotations: Path, out: Path) -> Path:
    """Write annotations without masks, of which Faster R-CNN, the faster, is trained."""
    content = json.loads(annotations.read_text(encoding='utf-8'))
    for annotation in content['annotations']:
        annotation.pop('segmentation', None)
    file = out / annotations.name
    file.write_text(json.dumps(content), encoding='utf-8')
    return file


def run(
    data: Path,
    out: Path,
    methods: Sequence[str] = tuple(METHODS),
    view_size: int = 96,
    pretrain_epochs: int = 200,
    detector_size: int = 192,
    iterations: int = 1500,
    fractions: Sequence[float] = (5, 10, 20, 100),
    seeds: int = 3,
) -> Study:
    """Pretrain, and compare what detectors make of it.

    Args:
        data: Folder in the layout above.
        out: Folder to write into, or to go on in.
        methods: Names in ``METHODS``.
        view_size: Edge of the views in pretraining, in pixels.
        pretrain_epochs: How often each photograph is seen without labels.
        detector_size: Longer side of the detectors' images, in pixels.
        iterations: Training steps of each detector.
        fractions: Parts of the labelled images, in percent.
        seeds: How many parts are drawn, and detectors trained, for each.

    Returns:
        What :func:`mmsnclr.api.detect` made.
    """
    backbone, *others = pretrain_all(data / 'train', out, methods, view_size, pretrain_epochs)
    return detect(
        leave_out_masks(data / 'train.json', out),
        data / 'train',
        backbone=backbone,
        out=out / 'detect',
        val_json=leave_out_masks(data / 'test.json', out),
        val_images=data / 'test',
        compare=[*others, 'random'],
        fractions=fractions,
        seeds=seeds,
        size=detector_size,
        iterations=iterations,
        skip_bad=True,
        resume=True,
    )


def main() -> None:
    """Compare by the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/photographs'))
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    parser.add_argument('--pretrain-epochs', type=int, default=200)
    parser.add_argument('--iterations', type=int, default=1500, help='steps of each detector')
    parser.add_argument('--fractions', type=float, nargs='+', default=[5, 10, 20, 100])
    parser.add_argument('--seeds', type=int, default=3)
    args = vars(parser.parse_args())
    run(args.pop('data'), args.pop('out'), **args)


if __name__ == '__main__':
    main()
