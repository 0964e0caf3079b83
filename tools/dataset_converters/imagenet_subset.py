"""List a part of ImageNet's training images, for semi-supervised configs.

python tools/dataset_converters/imagenet_subset.py data/imagenet --percent 1
"""

import argparse
import random
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data_root', type=Path, help='holds train/CLASS/IMAGE')
    parser.add_argument('--percent', type=float, required=True, help='of each class')
    parser.add_argument(
        '--names',
        type=Path,
        help='a published list of file names, one a line, with or without their folder; without '
        'it images are drawn',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the draw')
    args = parser.parse_args()
    if not 0 < args.percent <= 100:
        parser.error(f'--percent {args.percent:g} must lie above 0 and up to 100')
    if not (args.data_root / 'train').is_dir():
        parser.error(f'{args.data_root / "train"} is not a folder')
    return args


def draw(images: list[Path], percent: float, generator: random.Random) -> list[Path]:
    """Draw a share of one class's images, one at least."""
    return sorted(generator.sample(images, max(1, round(len(images) * percent / 100))))


def listed(images: list[Path], names: set[str]) -> list[Path]:
    """Choose the images whose file name is on a list."""
    return [image for image in images if image.name in names]


def main() -> None:
    """Write the list."""
    args = parse_args()
    classes = sorted(folder for folder in (args.data_root / 'train').iterdir() if folder.is_dir())
    if args.names:
        names = {Path(line.strip()).name for line in args.names.read_text().split('\n') if line}
    generator = random.Random(args.seed)
    lines, found = [], set()
    for label, folder in enumerate(classes):
        images = sorted(path for path in folder.iterdir() if path.is_file())
        chosen = listed(images, names) if args.names else draw(images, args.percent, generator)
        found.update(image.name for image in chosen)
        lines += [f'{folder.name}/{image.name} {label}' for image in chosen]
    if args.names and found != names:
        missing = sorted(names - found)
        raise SystemExit(
            f'{len(missing)} of {len(names)} names in {args.names} are not in '
            f'{args.data_root / "train"}, such as {missing[0]}'
        )
    out = args.data_root / 'meta' / f'train_{args.percent:g}percent.txt'
    out.parent.mkdir(exist_ok=True)
    out.write_text('\n'.join(lines) + '\n')
    how = f'named by {args.names}' if args.names else f'drawn by class with seed {args.seed}'
    print(f'{out}: {len(lines):,} images of {len(classes):,} classes, {how}')
    if not args.names:
        print('This is not the subset of published results: for theirs, give --names.')


if __name__ == '__main__':
    main()
