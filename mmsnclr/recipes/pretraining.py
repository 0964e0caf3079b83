"""The recipes of `configs/`, fitted to a set of images of any size."""

import math
from pathlib import Path

import timm
import torch
from mmengine.config import Config, ConfigDict
from timm.layers import PatchEmbed
from torch import nn

from ..backbones.naming import build_backbone, unwrapped
from ..console import Setting, did_you_mean
from ..datasets.views import VIEW_KINDS
from ..parents import only_progress

CONFIGS = Path(__file__).parents[1] / '.mim' / 'configs'
_R50, _TIMM = 'snclr_r50_1xb256_200e.py', 'snclr_timm_300e.py'
# name: (recipe, what of its model differs)
BACKBONES = {
    'r18': (_R50, {'backbone.depth': 18, 'neck.in_channels': 512}),
    'r34': (_R50, {'backbone.depth': 34, 'neck.in_channels': 512}),
    'r50': (_R50, {}),
    'r101': (_R50, {'backbone.depth': 101}),
    'vit-s': ('snclr_vit-s_300e.py', {}),
    'vit-b': ('snclr_vit-b_300e.py', {}),
}
# What a training needs; the recipes hold helpers beside these.
_NEEDED = (
    *('default_scope', 'custom_imports', 'default_hooks', 'custom_hooks', 'env_cfg'),
    *('vis_backends', 'visualizer', 'log_level', 'log_processor', 'randomness'),
    *('model', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'),
)
_FEWEST_IMAGES = 32
_FEW = 100  # one in so many images may have colours in a set that counts as without
_VIEWS = {'strong': "as BYOL's, for photographs", 'gray': 'no jitter of colours, nothing solarised'}
_IMAGENET_IMAGES = 1_281_167


def load_recipe(backbone: str) -> Config:
    """Load the recipe of a backbone, with the released code's form of the loss.

    Args:
        backbone: A key of ``BACKBONES`` or the name of a timm model.

    Returns:
        The config, data and training loop left out.

    Raises:
        ValueError: If there is no such backbone.
    """
    name, differs = BACKBONES.get(backbone, (_TIMM, {'backbone.model_name': backbone}))
    if name == _TIMM and not timm.is_model(backbone):
        raise ValueError(
            f'backbone={backbone!r} is neither one of {", ".join(BACKBONES)} nor a model of timm '
            '(timm.list_models() lists these)'
            + did_you_mean(backbone, [*BACKBONES, *timm.list_models()])
        )
    if name == _TIMM:
        try:
            timm.models.get_pretrained_cfg(backbone)
        except RuntimeError as error:  # what stands behind a dot is no tag of the model's
            raise ValueError(f'backbone={backbone!r}: {error}') from error
    recipe = Config.fromfile(CONFIGS / name)
    cfg = Config({key: recipe[key] for key in _NEEDED if key in recipe})
    cfg.merge_from_dict({f'model.{key}': value for key, value in differs.items()})
    # Not behind Eq. 2 on average, in few and small runs: docs/evidence.md.
    cfg.model.head.loss.form = 'sum_log'
    return cfg


def fit_to_images(
    cfg: Config,
    images: int,
    edge: int,
    batch: int | None = None,
    size: int | None = None,
    processes: int = 1,
    views: str | None = None,
    colored: int | None = None,
    patch: int = 1,
) -> list[Setting]:
    """Choose what follows from the number of images, their size and colours.

    Args:
        cfg: A recipe; changed in place.
        images: How many images there are.
        edge: Their typical shorter edge, in pixels.
        batch: Images of a step, if the user has chosen.
        size: Edge of a view in pixels, if the user has chosen.
        processes: How many of them share a batch.
        views: A key of ``VIEW_KINDS``, if the user has chosen.
        colored: How many of the images have colours; all by default.
        patch: Of what number of pixels the size is a multiple, by :func:`patch_edge`.

    Returns:
        What was chosen.

    Raises:
        ValueError: If there are too few images, or ``batch`` or ``size`` does
            not suit them or the backbone.
    """
    if images < _FEWEST_IMAGES:
        raise ValueError(
            f'{images} usable images are too few: each is compared with the others, so pass '
            f'{_FEWEST_IMAGES} at the very least, better thousands'
        )
    cuda = torch.cuda.is_available()
    most = min(4096, 256 * processes) if cuda else 64
    given = 'as you chose'
    why_size, why_batch = given, given
    if size is None:
        size = min(224, max(32, edge // 32 * 32)) // patch * patch
        why_size = f'pixels; 224, less only for small images (median edge {edge})'
    if batch is None:
        batch = min(most, 2 ** int(math.log2(images / 4))) // processes * processes
        why_batch = '64 on a CPU, at most a quarter of the images'
        if cuda:
            why_batch = '256 a GPU, at most 4,096 and a quarter of the images'
    if processes > 1:
        why_batch += f'; {processes} processes share it evenly'
    if not 2 * processes <= batch <= images:
        least = '2' if processes == 1 else f'{2 * processes}, 2 for each process (--gpus),'
        raise ValueError(f'batch={batch} must lie between {least} and the {images} usable images')
    set_size(cfg.model.backbone, size)
    why_views = given
    if views is None:
        colored = images if colored is None else colored
        views = 'gray' if colored * _FEW < images else 'strong'
        why_views = f'{_VIEWS[views]}; {colored:,} of the images have colours'

    length = min(128_000, max(images // 10, min(images, 2048)))
    neighbors = min(30, max(2, length // 100))
    cfg.model.queue.length = length
    cfg.model.head.neighbors = neighbors

    cfg.share_batch = True
    cfg.train_dataloader = _train_dataloader(batch, size, views)
    return [
        Setting('images', f'{images:,}', 'usable'),
        Setting('size', f'{size}', why_size),
        Setting('views', views, why_views),
        Setting('batch', f'{batch}', why_batch),
        Setting('set length', f'{length:,}', 'a tenth of the images; all of them up to 2,048'),
        Setting('K', f'{neighbors}', 'neighbours: a hundredth of the set, at most 30'),
        Setting('loss', cfg.model.head.loss.form, "the released code's form; Eq. 2 is log_sum"),
    ]


def _train_dataloader(batch: int, size: int, views: str) -> dict:
    # BYOL's blur and crops are meant for 224 pixels.
    view = dict(size=size, blur_sigma=(0.1 * size / 224, 2.0 * size / 224))
    if size < 112:
        view['crop_scale'] = (0.2, 1.0)
    pair = [dict(view, blur_prob=1.0), dict(view, blur_prob=0.1, solarize_prob=0.2)]
    pair = [one | VIEW_KINDS[views] for one in pair]
    return dict(
        batch_size=batch,
        num_workers=0,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
        dataset=dict(
            type='ImageList',
            pipeline=[dict(type='AugmentedViews', views=pair), dict(type='PackInputs')],
        ),
    )


def fit_to_epochs(
    cfg: Config,
    images: int,
    epochs: int | None = None,
    trained: bool = False,
    step_seconds: float = 1.0,
    why: str = 'as you chose',
) -> list[Setting]:
    """Choose what follows from how long is trained.

    Args:
        cfg: What :func:`fit_to_images` has changed; changed in place.
        images: How many images there are.
        epochs: How often each is seen, if that is decided.
        trained: Whether the backbone starts from trained weights.
        step_seconds: How long a step takes; intervals of logs and checkpoints
            follow from it.
        why: The reason for ``epochs``, for those who ask.

    Returns:
        What was chosen.
    """
    batch = cfg.train_dataloader.batch_size
    steps = images // batch
    if epochs is None:
        epochs = min(800, max(200, round(200 * math.sqrt(_IMAGENET_IMAGES / images))))
        why = '200 for as many images as ImageNet has, up to 800 for fewer'
        if trained:
            epochs, why = epochs // 4, f'{why}; a quarter for a trained backbone'

    optimizer, linear = cfg.optim_wrapper.optimizer, cfg.param_scheduler[0]
    rate = optimizer.lr * 256 / cfg.auto_scale_lr.base_batch_size / (10 if trained else 1)
    optimizer.lr = rate * batch / 256
    cfg.auto_scale_lr = dict(base_batch_size=batch)
    recipe_warmup = linear.end
    warmup = min(recipe_warmup, max(1, epochs // 10), epochs - 1)
    linear.update(start_factor=1e-6 / optimizer.lr, end=warmup)
    cfg.param_scheduler[1].update(begin=warmup, end=epochs, T_max=epochs - warmup)
    if not warmup:
        del cfg.param_scheduler[0]

    # The encoder's memory in steps: 100 of 4,096 images, which is a coefficient of 0.99.
    memory = max(10.0, min(100 * 4096 / batch, steps * epochs / 10))
    coefficient = 0.99 ** (100 / memory)
    cfg.model.momentum_coefficient = coefficient
    without = warmup if trained else min(max(warmup, math.ceil(3000 / steps)), epochs // 2)
    cfg.custom_hooks[0].warmup_epochs = without

    cfg.train_cfg = dict(by_epoch=True, max_epochs=epochs)
    # A line in the log every few seconds, a checkpoint every few minutes.
    cfg.default_hooks.logger.interval = min(steps, max(1, min(50, round(5 / step_seconds))))
    interval = max(1, min(epochs // 4, round(180 / (steps * step_seconds))))
    cfg.default_hooks.checkpoint.interval = interval
    return [
        Setting('epochs', f'{epochs}', why),
        Setting(
            'learning rate',
            f'{optimizer.lr:.3g}',
            f'{optimizer.type}, {rate:.3g} x batch / 256'
            + (', a tenth of the recipe for a trained backbone' if trained else ''),
        ),
        Setting(
            'warm-up', f'{warmup}', f'epochs: a tenth, at most {recipe_warmup} as in the recipe'
        ),
        Setting(
            'm',
            f'{without}',
            'epochs without neighbours, whose coming lifts the loss: '
            + ('the warm-up' if trained else '3,000 steps as in the recipe, at most half'),
        ),
        Setting(
            'coefficient',
            f'{coefficient:.5f}',
            f'of the momentum encoder: it remembers {memory:,.0f} steps, at most a tenth of all',
        ),
        Setting('checkpoints', f'{interval}', 'epochs apart: 3 minutes, at most a quarter of all'),
    ]


def try_backbone(cfg: dict, name: str, size: int) -> nn.Module:
    """Build a backbone and try it on an image.

    Args:
        cfg: Its config.
        name: What the user calls it.
        size: Edge of the image in pixels.

    Raises:
        ValueError: If it does not take images of that size.
    """
    try:
        with only_progress(), torch.no_grad():
            network = build_backbone(cfg)
            network(torch.zeros(1, 3, size, size))
    # What timm's models raise whose size or pooling is another.
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f'backbone={name!r} cannot be used at size={size}: {error}') from error
    return network


def set_size(backbone: ConfigDict, size: int) -> None:
    """Tell the config of a backbone the size of its images, if it must know it.

    Raises:
        ValueError: If the size is no multiple of the edge of a patch.
    """
    if backbone.type == 'TIMMRepresentation':
        known = timm.models.get_pretrained_cfg(backbone.model_name)
        if known is not None and known.fixed_input_size:
            backbone.img_size = size
    elif 'img_size' in backbone:
        _check_patches(backbone.patch_size, size)
        backbone.img_size = size


def check_size(network: nn.Module, size: int) -> None:
    """Refuse a size of which a model of timm would not look at the last pixels.

    Raises:
        ValueError: If it is no multiple of the edge of a patch.
    """
    _check_patches(patch_edge(network), size)


def patch_edge(network: nn.Module) -> int:
    """Edge of the patches of a model of timm that takes whole ones only, in pixels; else 1."""
    patches = getattr(unwrapped(network), 'patch_embed', None)
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad:
        return patches.patch_size[0]
    return 1


def _check_patches(patch: int, size: int) -> None:
    if size % patch:
        raise ValueError(f'size={size} must be a multiple of {patch}, the edge of a patch')
