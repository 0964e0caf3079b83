"""The recipe of classifiers, fitted to a set of labelled images and to a backbone."""

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.backbones import ResNet, TIMMBackbone, VisionTransformer
from torch import Tensor, nn

from ..backbones import build_backbone, initialize_backbone, read_backbone
from ..backbones.naming import example_images
from ..checkpoints import Stored
from ..console import Setting
from ..datasets.labelled import LabelledImages
from ..models.backbone import pooled
from .pretraining import CONFIGS, check_size, set_size

_MOST_EPOCHS, _FEWEST_EPOCHS, _MANY_IMAGES = 100, 30, 10_000
_BATCH = 64
_LAYER_DECAY = 0.75
_GIVEN = 'as asked for'


class Start(NamedTuple):
    """A backbone that a classifier starts from.

    Attributes:
        source: How the user named it.
        config: Its config in mmpretrain's words, nothing frozen.
        network: The backbone; what it holds counts only if it is ``pretrained``.
        preprocessing: ``mean``, ``std`` and ``to_rgb``; may be empty.
        edge: Of the images that it was trained with, in pixels; ``None`` for a new one.
        pretrained: Whether it starts from its weights, else from random ones.
    """

    source: str
    config: dict
    network: nn.Module
    preprocessing: dict
    edge: int | None
    pretrained: bool


def read_start(checkpoint: str | Path, size: int | None = None) -> Start:
    """The backbone of a checkpoint, for images of a size.

    Args:
        checkpoint: As for :func:`~mmsnclr.backbones.read_backbone`.
        size: Edge of the images in pixels; by default that of its training.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it has no backbone, or that does not take images of the size.
    """
    trained = read_backbone(Stored.read(checkpoint))
    cfg, network = Config(trained.cfg | _freezing(trained.backbone, False)), trained.backbone
    if size not in (None, trained.edge):
        set_size(cfg, size)
        network = build_backbone(cfg.to_dict())
        check_size(network, size)
        initialize_backbone(
            network, Stored(Path(checkpoint), dict(state_dict=trained.backbone.state_dict()))
        )
    start = Start(
        str(checkpoint), cfg.to_dict(), network, trained.preprocessing, trained.edge, True
    )
    edge = size or trained.edge
    try:
        _represent(start, edge)
    # What timm's models raise whose size is another.
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f'{checkpoint} cannot be used at size={edge}: {error}') from error
    return start


def random_start(like: Start | None = None) -> Start:
    """A backbone with random weights, of the architecture of another one or a ResNet-50."""
    if like is not None:
        return like._replace(source='random', pretrained=False)
    cfg = dict(type='ResNet', depth=50)
    return Start('random', cfg, build_backbone(cfg), {}, None, False)


def _freezing(network: nn.Module, frozen: bool) -> dict:
    """How a backbone's config says that it does, or does not, learn."""
    if isinstance(network, TIMMBackbone):
        return dict(frozen=frozen)
    if isinstance(network, VisionTransformer):
        return dict(frozen_stages=len(network.layers) if frozen else -1)
    if isinstance(network, ResNet):
        return dict(frozen_stages=4 if frozen else -1, norm_eval=frozen)
    if frozen:
        raise ValueError(f'frozen=True: {type(network).__name__} can only be fine-tuned')
    return {}


@torch.no_grad()
def _represent(start: Start, size: int) -> tuple[Tensor, ...]:
    """What the backbone gives for random images."""
    return start.network(example_images(start.network, start.config, 2, size))


def load_classifier() -> Config:
    """Load the recipe; what is fitted to the set, the backbone and the run is left out."""
    return Config.fromfile(CONFIGS / '_base_' / 'classify.py')


def fit_to_images(
    cfg: Config,
    images: LabelledImages,
    edge: int | None,
    size: int | None = None,
    flip: bool = True,
) -> list[Setting]:
    """Choose what follows from the images and their classes.

    Args:
        cfg: The recipe; changed in place.
        images: The set.
        edge: Edge of the images that the backbone was trained with, in pixels, if it was.
        size: Edge of the images in pixels, if the user has chosen.
        flip: Whether to mirror training images at random.

    Returns:
        What was chosen.
    """
    classes, count = images.classes, len(images.train)
    why = _GIVEN
    if size is None and edge is not None:
        size, why = edge, 'pixels, as the backbone was trained with'
    elif size is None:
        median = images.scan.median_edge
        size = min(224, max(32, median // 32 * 32))
        why = f'pixels; 224, less only for small images (median edge {median})'
    least = 0.2 if size < 112 or count < _MANY_IMAGES else 0.08
    view = cfg.train_dataloader.dataset.pipeline[0].views[0]
    view.update(size=size, crop_scale=(least, 1.0), flip_prob=0.5 if flip else 0.0)
    cfg.train_dataloader.dataset.pipeline[0].levels = images.scan.levels
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        read, resize, crop, _ = loader.dataset.pipeline
        read.levels, resize.scale, crop.crop_size = images.scan.levels, round(size * 8 / 7), size
    cfg.model.head.num_classes = len(classes)
    topk = (1, 5) if len(classes) > 5 else (1,)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator[0].topk = topk
    sizes = sorted(Counter(images.train.values()).values())
    return [
        Setting('images', f'{count:,}', f'to learn from, {len(images.val):,} to validate on'),
        Setting('classes', f'{len(classes)}', f'of {sizes[0]:,} to {sizes[-1]:,} images'),
        Setting('size', f'{size}', why),
        Setting(
            'augmentation',
            'crops, mirrored' if flip else 'crops',
            f'of {100 * least:.0f} to 100 % of an image; colours are left, which may tell classes'
            + ('; --no-flip for text and the like' if flip else ''),
        ),
    ]


def fit_to_epochs(
    cfg: Config,
    images: int,
    epochs: int | None = None,
    batch: int | None = None,
    processes: int = 1,
) -> list[Setting]:
    """Choose how long is trained, and what follows from that.

    Args:
        cfg: The recipe; changed in place.
        images: How many there are to learn from.
        epochs: How often each is seen, if the user has chosen.
        batch: Images in a step, if the user has chosen.
        processes: How many of them share a batch.

    Returns:
        What was chosen.

    Raises:
        ValueError: If the batch is too small or too large.
    """
    why_epochs = why_batch = _GIVEN
    if epochs is None:
        epochs = round(_FEWEST_EPOCHS * max(1.0, math.sqrt(_MANY_IMAGES / images)))
        epochs = min(_MOST_EPOCHS, epochs)
        why_epochs = (
            f'{_FEWEST_EPOCHS} from {_MANY_IMAGES:,} images on, for fewer up to {_MOST_EPOCHS}, by '
            'the square root'
        )
    if batch is None:
        batch = min(_BATCH * processes, max(8, 2 ** int(math.log2(max(1, images / 8)))), images)
        batch = max(batch // processes, 2) * processes
        why_batch = f'images in a step: an eighth of all, at most {_BATCH} a process'
    if not 2 * processes <= batch <= images:
        raise ValueError(
            f'batch={batch} must lie between {2 * processes}, 2 for each process (--gpus), and the '
            f'{images} images to learn from'
        )
    cfg.train_dataloader.batch_size = batch
    cfg.auto_scale_lr = dict(base_batch_size=batch)
    warmup = min(5, epochs // 10)
    linear, cosine = cfg.param_scheduler
    linear.update(begin=0, end=warmup)
    cosine.update(begin=warmup, end=epochs, T_max=epochs - warmup)
    if not warmup:
        del cfg.param_scheduler[0]
    cfg.train_cfg.update(max_epochs=epochs, val_interval=max(1, epochs // 5))
    cfg.default_hooks.logger.interval = max(1, min(50, images // batch))
    cfg.default_hooks.checkpoint.interval = max(1, epochs // 4)
    return [
        Setting('epochs', f'{epochs}', why_epochs),
        Setting('batch', f'{batch}', why_batch),
        Setting('warm-up', f'{warmup}', 'epochs: a tenth, at most 5; then down by a cosine'),
    ]


def fit_to_files(
    cfg: Config, out: Path, classes: list[str], workers: int = 2, seed: int = 0
) -> None:
    """Set the files, how many processes load images, and the seed."""
    cfg.randomness = dict(seed=seed)
    for name, part in dict(train='train', val='val', test='val').items():
        loader = cfg[f'{name}_dataloader']
        set_workers(loader, workers)
        loader.dataset.update(
            ann_file=str(out / f'{part}.txt'), labels=str(out / 'labels.csv'), classes=classes
        )


def set_workers(loader: dict, workers: int) -> None:
    """Set how many processes load the images of a loader, and what else is of the machine."""
    cuda = torch.cuda.is_available()
    loader.update(num_workers=workers, persistent_workers=workers > 0, pin_memory=cuda)


def fit_to_backbone(
    cfg: Config, start: Start, frozen: bool = False, lr: float | None = None
) -> list[Setting]:
    """Put a backbone in, with the optimiser that suits it.

    Args:
        cfg: What the other functions have fitted; changed in place.
        start: The backbone.
        frozen: Whether only the classifier learns.
        lr: Learning rate, if the user has chosen.

    Returns:
        What was chosen.
    """
    outputs = _represent(start, cfg.train_dataloader.dataset.pipeline[0].views[0].size)
    cfg.model.data_preprocessor.update(start.preprocessing)
    cfg.model.backbone = start.config | _freezing(start.network, frozen)
    if outputs[-1].ndim == 4:
        cfg.model.neck = dict(type='GlobalAveragePooling')
    cfg.model.head.in_channels = pooled(outputs).shape[1]
    learns = 'all of it learns' + ('; BN by the statistics of the batch' if _has_bn(start) else '')
    if frozen:
        learns = 'frozen: a linear classifier of its representation learns'
    weights = 'pretrained' if start.pretrained else 'random'
    return [Setting('backbone', weights, learns), *_fit_optimizer(cfg, start, frozen, lr)]


def _has_bn(start: Start) -> bool:
    return any(isinstance(module, _BatchNorm) for module in start.network.modules())


def _fit_optimizer(cfg: Config, start: Start, frozen: bool, lr: float | None) -> list[Setting]:
    wrapper, share = cfg.optim_wrapper, cfg.train_dataloader.batch_size / 256
    if frozen:
        optimizer = dict(type='AdamW', lr=0.01, weight_decay=0.0)
        kind, why = 'AdamW', 'for a linear classifier, whatever the scale of what it is given'
        why_lr = "the classifier's"
    elif _has_bn(start):
        optimizer = dict(type='SGD', lr=0.05 * share, momentum=0.9, weight_decay=1e-4)
        wrapper.paramwise_cfg = dict(custom_keys=dict(head=dict(lr_mult=10.0)))
        kind, why = 'SGD', 'for a network with BN; the classifier learns 10 times as fast'
        why_lr = '0.05 x batch / 256'
    else:
        optimizer = dict(type='AdamW', lr=5e-4 * math.sqrt(share), weight_decay=0.05)
        still = dict(decay_mult=0.0)
        wrapper.paramwise_cfg = dict(
            norm_decay_mult=0.0,
            bias_decay_mult=0.0,
            custom_keys={'.cls_token': still, '.pos_embed': still},
        )
        kind, why = 'AdamW', 'for a network without BN'
        why_lr = '0.0005 x square root of batch / 256'
        if start.pretrained and hasattr(start.network, 'get_layer_depth'):
            wrapper.constructor = 'BackboneLayerDecay'
            wrapper.paramwise_cfg.layer_decay_rate = _LAYER_DECAY
            why = f'for a ViT; each layer learns {_LAYER_DECAY} times as fast as the next'
    if lr is not None:
        optimizer['lr'], why_lr = lr, _GIVEN
    wrapper.optimizer = optimizer
    return [
        Setting('optimiser', kind, why),
        Setting('learning rate', f'{optimizer["lr"]:.3g}', why_lr),
    ]


def fit_to_run(cfg: Config, work_dir: Path, weights: Path | None) -> None:
    """Set where a run writes, and the file of its first weights; it is resumed if it can be."""
    cfg.work_dir, cfg.resume, cfg.share_batch = str(work_dir), True, True
    # A process may have few images; mmengine joins BN's statistics on GPUs alone.
    cfg.sync_bn = 'torch'
    if weights is not None:
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(weights))
    # A name of its own: two runs in one process would share one visualizer.
    cfg.visualizer.name = f'visualizer of {work_dir}'
