"""Two augmented views of photographs, per second: ours, mmpretrain's, torchvision's on PIL.

python benchmarks/pipeline.py [FOLDER] [--workers N]
"""

import argparse
import random
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import torch
from compare import in_turns, print_table
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as tv

import mmsnclr  # noqa: F401
from mmsnclr.datasets.decoding import FORMATS

ROOT = Path(__file__).resolve().parents[1]


def photographs(folder: Path | None, scratch: Path) -> list[str]:
    """Paths of a folder's images; without one, two that come with scikit-learn, as JPEG."""
    if folder:
        found = sorted(str(p) for p in folder.rglob('*') if p.suffix.lower() in {'.jpg', '.jpeg'})
        if not found:
            raise SystemExit(f'{folder} holds no .jpg or .jpeg file')
        return found
    scratch.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(load_sample_images().images):
        paths.append(str(scratch / f'{number}.jpg'))
        Image.fromarray(image).save(paths[-1], quality=90)
    return paths


def blurred(image: Image.Image) -> Image.Image:
    """Blur as the pipelines of MoCo v3 and of SNCLR's released code."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def inverted(image: Image.Image) -> Image.Image:
    """Solarize as these pipelines."""
    return tv.functional.solarize(image, 128)


def torchvision_view(blur_prob: float, solarize_prob: float) -> tv.Compose:
    """One group of BYOL's augmentations, on PIL images."""
    return tv.Compose(
        [
            tv.RandomResizedCrop(224, scale=(0.08, 1.0), interpolation=3),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            tv.RandomGrayscale(0.2),
            tv.RandomApply([tv.Lambda(blurred)], p=blur_prob),
            tv.RandomApply([tv.Lambda(inverted)], p=solarize_prob),
            tv.RandomHorizontalFlip(),
            tv.PILToTensor(),
        ]
    )


def with_torchvision(results: dict, views: list[tv.Compose]) -> list[torch.Tensor]:
    """Load and augment with torchvision."""
    image = Image.open(results['img_path'], formats=FORMATS).convert('RGB')
    return [view(image) for view in views]


def through_mmpretrain(results: dict, pipeline: Compose) -> list[torch.Tensor]:
    """Load and augment with transforms of mmpretrain's registry."""
    return pipeline(results)['inputs']


def pipelines() -> dict:
    """Functions from a path to two views."""
    init_default_scope('mmpretrain')
    ours = Config.fromfile(ROOT / 'configs/_base_/imagenet_two_views.py').train_pipeline
    stock = Config.fromfile(
        Config._get_cfg_path('mmpretrain::_base_/datasets/imagenet_bs512_mocov3.py', '')[0]
    ).train_pipeline
    views = [torchvision_view(1.0, 0.0), torchvision_view(0.1, 0.2)]
    return {
        'AugmentedViews': partial(through_mmpretrain, pipeline=Compose(ours)),
        'mmpretrain, MoCo v3': partial(through_mmpretrain, pipeline=Compose(stock)),
        'torchvision on PIL': partial(with_torchvision, views=views),
    }


class Photographs(Dataset):
    """The photographs over and over, as two views."""

    def __init__(self, paths: list[str], pipeline: partial, length: int) -> None:
        self.paths, self.pipeline, self.length = paths, pipeline, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.pipeline(dict(img_path=self.paths[index % len(self.paths)]))


def single_thread(worker: int) -> None:
    """Keep a loader's worker to its core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def measure(paths: list[str], rounds: int, images: int, workers: int) -> list[list[object]]:
    """Time every pipeline.

    Args:
        paths: Photographs.
        rounds: Times that each pipeline is timed.
        images: Number of photographs in each.
        workers: Of the DataLoader; 0 stays in this process, on one thread.

    Returns:
        Rows of name, images per second, and speed over that of the first.
    """
    single_thread(0)

    def in_process(pipeline):
        for path in islice(paths * images, images):
            pipeline(dict(img_path=path))

    loaders = {
        name: DataLoader(
            Photographs(paths, pipeline, images),
            batch_size=32,
            num_workers=workers,
            persistent_workers=True,
            worker_init_fn=single_thread,
        )
        for name, pipeline in (pipelines().items() if workers else ())
    }
    if workers:
        calls = {n: partial(lambda loader: [None for _ in loader], x) for n, x in loaders.items()}
    else:
        calls = {name: partial(in_process, pipeline) for name, pipeline in pipelines().items()}
    times = in_turns(calls, rounds)
    first = next(iter(times.values()))
    return [[n, f'{images / t:.0f}', f'{t / first:.2f}'] for n, t in times.items()]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, nargs='?', help='of JPEG files; else two samples')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    paths = photographs(args.folder, ROOT / 'work_dirs/benchmark_photographs')
    header = ['pipeline', 'images/s', "time over AugmentedViews'"]
    print(f'{len(paths)} photographs, one core, no loader')
    print_table(header, measure(paths, args.rounds, min(200, max(50, len(paths))), 0))
    print(f'\nthrough a DataLoader with {args.workers} workers')
    print_table(header, measure(paths, args.rounds, 400, args.workers))
