"""What it takes to begin: listing as many images as ImageNet has, their memory, the first batch.

python benchmarks/startup.py [--images 1281167] [--tars]

Hard links to a few small files stand for the images; a process of its own for each row. An epoch of
two workers goes over all entries before their memory is read.
"""

import argparse
import multiprocessing
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from compare import print_table
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from mmsnclr.datasets.decoding import SUFFIXES
from mmsnclr.datasets.listing import list_images
from mmsnclr.parents import without_prints

ROOT = Path(__file__).resolve().parents[1]
IMAGENET = 1_281_167
CLASSES = 1000
WORKERS = 2
BATCH = 64
_LINKS = 60_000  # of a file; ext4 has no more than 65,000
_ENTRIES = 4096  # that a worker looks at in one go


class Plain(Dataset):
    """What one would write: os.walk, a stat of each file, a list of dicts with a Path."""

    def __init__(self, root: Path, pipeline: Callable[[dict], Any]) -> None:
        self.samples, self.pipeline = [], pipeline
        for number, (parent, _, names) in enumerate(os.walk(root)):
            for path in sorted(Path(parent, name) for name in names):
                if path.suffix.lower() in SUFFIXES and path.stat().st_size:
                    self.samples.append(dict(img_path=path, gt_label=number))

    def __len__(self) -> int:
        return len(self.samples)

    def get_data_info(self, index: int) -> dict:
        """An entry, as mmengine's data sets give it."""
        return dict(self.samples[index], sample_idx=index)

    def __getitem__(self, index: int) -> Any:
        return self.pipeline(self.get_data_info(index))


class Entries(Dataset):
    """The entries of a data set, without the images."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> int:
        return len(self.dataset.get_data_info(index))


def images(count: int) -> list[bytes]:
    """Small JPEG files, all different."""
    draw = np.random.default_rng(0)
    pixels = (draw.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count))
    return [cv2.imencode('.jpg', image)[1].tobytes() for image in pixels]


def write_folders(root: Path, count: int) -> None:
    """Fill ``root/train`` with class folders; those that are there from before are kept."""
    sources = []
    for number, data in enumerate(images(-(-count // _LINKS))):
        sources.append(root / f'{number}.jpg')
        sources[-1].write_bytes(data)
    for number, names in _classes(count):
        folder, draft = root / f'train/n{number:08}', root / 'draft'
        if folder.exists():
            continue
        draft.mkdir(parents=True, exist_ok=True)
        for image in names:
            os.link(sources[image % len(sources)], draft / f'n{number:08}_{image}.JPEG')
        folder.parent.mkdir(exist_ok=True)
        draft.rename(folder)


def write_tars(root: Path, count: int) -> None:
    """Fill ``root/train`` with a tar of each class."""
    contents = images(20)
    (root / 'train').mkdir(parents=True)
    for number, names in _classes(count):
        with tarfile.open(root / f'train/n{number:08}.tar', 'w') as tar:
            for image in names:
                member = tarfile.TarInfo(f'n{number:08}_{image}.JPEG')
                data = contents[image % len(contents)]
                member.size = len(data)
                tar.addfile(member, BytesIO(data))


def _classes(count: int) -> Iterator[tuple[int, range]]:
    for number in range(CLASSES):
        yield number, range(number, count, CLASSES)


def alternatives(root: Path, tars: bool) -> dict[str, Callable[[], Dataset]]:
    """What lists the images, by name."""
    init_default_scope('mmpretrain')
    views = [dict(type='AugmentedViews', views=[dict(size=32)] * 2), dict(type='PackInputs')]
    common = dict(data_root=str(root), split='train', pipeline=views)
    if tars:
        folder = lambda: DATASETS.build(dict(type='ImageFolder', **common))  # noqa: E731
        return {'ImageFolder of tars, indexing them': folder, 'the same again': folder}
    listed = dict(type='ImageList', ann_file=str(root / 'images.txt'), pipeline=views)
    return {
        'os.walk, stat, list of dicts': lambda: Plain(root / 'train', Compose(views)),
        "mmpretrain's ImageNet": lambda: DATASETS.build(dict(type='ImageNet', **common)),
        'ImageFolder': lambda: DATASETS.build(dict(type='ImageFolder', **common)),
        'ImageList, which mmsnclr pretrain trains on': lambda: DATASETS.build(listed),
    }


def memory(pid: int) -> dict[str, float]:
    """MB of a process: its share of what is shared (Pss), and what it has for itself."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:]
    sizes = {line.split(':')[0]: int(line.split()[1]) / 1000 for line in lines}
    return dict(pss=sizes['Pss'], own=sizes['Private_Clean'] + sizes['Private_Dirty'])


def start(build: Callable[[], Dataset]) -> dict[str, float]:
    """List, load a batch, and look at all entries, once."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with without_prints():
        dataset = build()
    listing = time.perf_counter() - begin
    peak = Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]
    options = dict(num_workers=WORKERS, shuffle=True, persistent_workers=True)
    loader = DataLoader(dataset, BATCH, collate_fn=list, **options)
    next(iter(loader))
    first = time.perf_counter() - begin
    del loader
    entries = iter(DataLoader(Entries(dataset), _ENTRIES, **options))
    for _ in entries:
        pass
    workers = [memory(worker.pid) for worker in entries._workers]
    mean = {key: sum(worker[key] for worker in workers) / WORKERS for key in workers[0]}
    return dict(images=len(dataset), listing=listing, first=first, peak=int(peak) / 1000, **mean)


def in_process(function: Callable[..., Any], *args) -> Any:
    """The result of a function in a process of its own."""
    context = multiprocessing.get_context('fork')
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=lambda: send.send(function(*args)))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def write_list(root: Path) -> float:
    """Seconds of finding the images as mmsnclr pretrain does, once for all of its processes."""
    begin = time.perf_counter()
    paths = list_images(root / 'train')
    seconds = time.perf_counter() - begin
    (root / 'images.txt').write_text(''.join(f'{path}\n' for path in paths))
    return seconds


def measure(root: Path, tars: bool) -> dict[str, dict[str, float]]:
    """What :func:`start` finds, by name."""
    found = {}
    for name, build in alternatives(root, tars).items():
        found[name] = in_process(start, build)
        print(f'{name}: {found[name]}', flush=True)
    return found


def rows(found: dict[str, dict[str, float]]) -> list[list[object]]:
    """Rows of name, and of values and their ratio to the first row's."""
    first = next(iter(found.values()))
    digits = dict(listing=1, first=1, pss=0, own=0, peak=0)
    return [
        [name, *(f'{row[k]:.{n}f} ({row[k] / first[k]:.2f})' for k, n in digits.items())]
        for name, row in found.items()
    ]


@contextmanager
def scratch(folder: Path, keep: bool) -> Iterator[Path]:
    """A folder that is there for the time of the measurement."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=IMAGENET)
    parser.add_argument('--tars', action='store_true', help='a tar of each class, no files')
    parser.add_argument('--folder', type=Path, default=ROOT / 'work_dirs/benchmark_startup')
    parser.add_argument('--keep', action='store_true', help='go on with the same files next time')
    args = parser.parse_args()
    os.environ['XDG_CACHE_HOME'] = str(args.folder / 'cache')
    with scratch(args.folder, args.keep) as root:
        begin = time.perf_counter()
        (write_tars if args.tars else write_folders)(root, args.images)
        print(f'{args.images:,} images made in {time.perf_counter() - begin:.0f} s', flush=True)
        if not args.tars:
            print(f'list_images: {in_process(write_list, root):.1f} s', flush=True)
        header = ['', 'listing, s', 'first batch, s']
        memory_of = ['MB of a worker, Pss', 'of its own', 'peak of the main process, MB']
        print_table([*header, *memory_of], rows(measure(root, args.tars)))
