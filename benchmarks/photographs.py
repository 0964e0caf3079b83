"""The whole path on real photographs: unlabelled pictures in, a detector and its gain out.

    python benchmarks/photographs.py COCO UNLABELLED...

COCO has annotations/*train2017.json and *val2017.json with train2017/ and val2017/; UNLABELLED
are further folders of images. The defaults take about 20 minutes on two cores.
"""

import argparse
import time
from pathlib import Path

from compare import print_table

from mmsnclr.api import detect, neighbors, predict, pretrain, report


def annotations(coco: Path, split: str) -> Path:
    """The annotation file of a split."""
    found = sorted((coco / 'annotations').glob(f'*{split}.json'))
    if len(found) != 1:
        raise SystemExit(f'{coco}/annotations must have one *{split}.json, not {len(found)}')
    return found[0]


def run(
    coco: Path,
    unlabelled: list[Path],
    out: Path,
    backbone: str = 'r18',
    size: int = 128,
    pretrain_time: str = '7m',
    detector_size: int = 256,
    iterations: int = 120,
) -> list[list[str]]:
    """Walk the path.

    Args:
        coco: Folder in COCO's layout.
        unlabelled: Further folders of images.
        out: Folder to write into.
        backbone: As for ``mmsnclr pretrain``.
        size: Edge of the views, in pixels.
        pretrain_time: As ``--time`` of ``mmsnclr pretrain``.
        detector_size: Longer side of the detector's images, in pixels.
        iterations: Training steps of each detector.

    Returns:
        What each step took and gave.
    """
    rows, start = [], time.perf_counter()

    def done(step: str, result: object) -> None:
        nonlocal start
        rows.append([step, f'{(time.perf_counter() - start) / 60:.1f}', str(result)])
        start = time.perf_counter()

    images = [coco / 'train2017', *unlabelled]
    checkpoint = pretrain(
        images, out / 'pretrain', backbone=backbone, size=size, time=pretrain_time
    )
    done('pretrain', checkpoint.name)
    done('neighbors', neighbors(checkpoint, images, out / 'pretrain', queries=12)[0].name)
    done('report', report(out / 'pretrain').name)
    detector = detect(
        annotations(coco, 'train2017'),
        coco / 'train2017',
        backbone=checkpoint,
        out=out / 'detect',
        val_json=annotations(coco, 'val2017'),
        val_images=coco / 'val2017',
        compare='random',
        size=detector_size,
        iterations=iterations,
        skip_bad=True,
    )
    values = [
        f'{kind} AP {ap.ap:.2f} from the {name} backbone'
        for name, kinds in detector.results.items()
        for kind, ap in kinds.items()
    ]
    done('detect', '; '.join(values))
    found = predict(detector.checkpoint, [coco / 'val2017'], out / 'predict', threshold=0.05)
    done('predict', f'{len(found)} objects')
    return rows


def main() -> None:
    """Walk the path and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('coco', type=Path)
    parser.add_argument('unlabelled', type=Path, nargs='*')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/photographs'))
    parser.add_argument('--time', default='7m', help='time to pretrain')
    parser.add_argument('--iterations', type=int, default=120, help='steps of each detector')
    args = parser.parse_args()
    rows = run(
        args.coco,
        args.unlabelled,
        args.out,
        pretrain_time=args.time,
        iterations=args.iterations,
    )
    total = sum(float(row[1]) for row in rows)
    print_table(['step', 'minutes', 'result'], [*rows, ['all', f'{total:.1f}', '']])


if __name__ == '__main__':
    main()
