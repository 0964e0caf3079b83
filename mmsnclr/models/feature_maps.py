"""Backbones that give a detector feature maps, and the neck that suits them."""

import copy
import math
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.backbones import TIMMBackbone, VisionTransformer
from mmpretrain.models.utils import LayerNorm2d, resize_pos_embed
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from ..parents import quiet

_FINEST = 4  # stride of the finest map that a detector is given


def probe(backbone: nn.Module, divisor: int = 32) -> tuple[list[int], list[int], list[str]]:
    """What a backbone makes of images of a size that is not that of its training.

    Nothing is computed: tensors have shapes alone.

    Args:
        backbone: A network from images to feature maps.
        divisor: What the edges of its images are multiples of, in pixels.

    Returns:
        Channels and strides of its maps, and the names of the parameters that get no gradient.
    """
    network = copy.deepcopy(backbone).to('meta')
    network.train(False)  # returns nothing in mmpretrain
    edge = 64 * divisor
    with torch.enable_grad():
        maps = network(torch.zeros(1, 3, edge, edge + divisor, device='meta'))
        sum(x.sum() for x in maps).backward()
    unused = [key for key, x in network.named_parameters() if x.requires_grad and x.grad is None]
    return [x.shape[1] for x in maps], [round(edge / x.shape[2]) for x in maps], unused


def fitting_neck(
    channels: list[int], strides: list[int], width: int = 256, norm: bool = False
) -> tuple[dict, list[float]]:
    """FPN, or :class:`SimpleFeaturePyramid` where there is one map; a coarser level comes on top.

    Args:
        channels: Of each of the backbone's maps.
        strides: Of each of the backbone's maps, in pixels.
        width: Channels of the neck's levels.
        norm: Whether FPN has LN, which it needs where maps have no norm of their own.

    Returns:
        The neck's config, and the strides of its levels.
    """
    if len(channels) > 1:
        neck: dict[str, Any] = dict(type='FPN', in_channels=channels)
        neck |= dict(norm_cfg=dict(type='mmpretrain.LN2d', eps=1e-6)) if norm else {}
    else:
        finest = 2 ** round(math.log2(strides[0] / _FINEST))
        scales = [finest / 2**level for level in range(4)]
        neck = dict(type='SimpleFeaturePyramid', in_channels=channels[0], scales=scales)
        strides = [strides[0] / scale for scale in scales]
        strides = [int(stride) if stride == int(stride) else stride for stride in strides]
    neck |= dict(out_channels=width, num_outs=len(strides) + 1)
    return neck, [*strides, 2 * strides[-1]]


def fit_levels(model: ConfigDict, neck: dict, strides: list[float], divisor: int) -> None:
    """Give a detector of two stages a neck, and its parts the strides of the neck's levels.

    Args:
        model: The detector's config; changed in place.
        neck: The neck's config, as :func:`fitting_neck` has it.
        strides: Of the neck's levels, in pixels.
        divisor: What images are padded to multiples of, in pixels.
    """
    model.neck = dict(model.neck if model.neck.type == neck['type'] else {}, **neck)
    model.data_preprocessor.pad_size_divisor = divisor
    model.rpn_head.anchor_generator.strides = strides
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if name in model.roi_head:
            model.roi_head[name].featmap_strides = strides[:-1]
            if strides[0] != _FINEST:  # which mmdet's 56 pixels are for
                model.roi_head[name].finest_scale = 14 * strides[0]


def follow_backbone(model: ConfigDict) -> None:
    """Have a detector's neck follow its :class:`TIMMFeatures`, whichever model that is.

    So that one setting names another model. A detector of another kind is left as it is.

    Args:
        model: The detector's config; changed in place.
    """
    if not {'neck', 'rpn_head', 'roi_head'} <= model.keys():
        return
    if model.backbone.type != 'TIMMFeatures':
        return
    backbone = MODELS.build(dict(model.backbone, init_cfg=None))
    channels, strides, _ = probe(backbone, backbone.divisor)
    neck, strides = fitting_neck(channels, strides, model.neck.out_channels, norm=True)
    fit_levels(model, neck, strides, backbone.divisor)


def _divisor(patch: int) -> int:
    """What images are padded to: an even number of patches, 32 pixels at least."""
    return 2 * patch * math.ceil(16 / patch)


@MODELS.register_module()
class TIMMFeatures(TIMMBackbone):
    """The feature maps of a timm model, whose weights keep timm's names.

    Of each stride from 4 on the deepest map, ``(N, C, H, W)``. What comes after them in the model
    is left out, so that each parameter that learns gets a gradient.

    Args:
        model_name: Name of the timm model.
        **kwargs: Further arguments of mmpretrain's ``TIMMBackbone``.

    Attributes:
        stages: Those of the model whose maps are given, as timm numbers them.
        sizes: The argument of the model that says that images have many sizes, if it has one.
        divisor: What the edges of images must be multiples of, in pixels.

    Raises:
        ValueError: If the model has no maps, or none of images of any size.
    """

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        refusal = f'model_name={model_name!r}: timm has no feature maps of it'
        # What transformers call it, that images have many sizes; other models do not know it.
        for sizes in (dict(dynamic_img_size=True), dict(strict_img_size=False), {}):
            with quiet(), suppress(*([TypeError] if sizes else [])):
                super().__init__(model_name, **kwargs | sizes)
                break
        self.sizes, model = sizes, self.timm_model
        stages = getattr(model, 'feature_info', None)
        if not stages or not hasattr(model, 'forward_intermediates'):
            raise ValueError(refusal)
        stages = getattr(stages, 'info', stages)
        deepest = {stage['reduction']: i for i, stage in enumerate(stages)}
        self.stages = [i for stride, i in deepest.items() if stride >= _FINEST]
        if not self.stages:
            raise ValueError(f'{refusal} of stride {_FINEST} and more')
        if hasattr(model, 'prune_intermediate_layers'):
            self.stages = model.prune_intermediate_layers(self.stages, prune_norm=True)
        patch = getattr(getattr(model, 'patch_embed', None), 'patch_size', 1)
        self.divisor = _divisor(max(patch) if isinstance(patch, tuple) else patch)
        try:
            _, _, unused = probe(self, self.divisor)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f'{refusal} for images of any size: {error}') from error
        for name in unused:
            self.get_parameter(name).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of images ``(N, 3, H, W)``, the finest first."""
        return tuple(
            self.timm_model.forward_intermediates(
                x, indices=self.stages, output_fmt='NCHW', intermediates_only=True
            )
        )

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, as timm counts them, and how many there are."""
        last = max(self._layers.values()) + 1
        return self._layers.get(param_name.removeprefix(f'{prefix}timm_model.'), last), last + 1

    @cached_property
    def _layers(self) -> dict[str, int]:
        model = self.timm_model
        return group_parameters(model, model.group_matcher(), reverse=True)


@MODELS.register_module()
class ViTFeatures(VisionTransformer):
    """The map of a ViT's patches; most layers attend within windows (ViTDet, arXiv 2203.16527).

    Weights are those of mmpretrain's ``VisionTransformer``. Positions are resized to each image.
    Unlike ViTDet's it keeps the class token, which the pretrained attention relies on: each window
    has a copy, and the mean of what they become goes on. A map no larger than a window is that of
    ``VisionTransformer(out_type='featmap')``.

    Args:
        window: Edge of a window in patches; ``None``: all layers attend to the whole image.
        global_layers: How many layers, evenly spread, attend to the whole image; the last does.
        **kwargs: Further arguments of mmpretrain's ``VisionTransformer``.

    Attributes:
        divisor: What the edges of images must be multiples of, in pixels.
    """

    def __init__(self, window: int | None = 14, global_layers: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs | dict(out_type='featmap'))
        every = math.ceil(self.num_layers / global_layers) if window else 1
        last = self.num_layers - 1
        self.global_layers = [i for i in range(self.num_layers) if (last - i) % every == 0]
        self.window = window
        self.divisor = _divisor(max(self.patch_embed.projection.kernel_size))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """The map ``(N, C, H / patch, W / patch)`` of images ``(N, 3, H, W)``, in a tuple."""
        x, grid = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        positions = resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            grid,
            mode=self.interpolate_mode,
            num_extra_tokens=self.num_extra_tokens,
        )
        x = self.pre_norm(self.drop_after_pos(x + positions))
        for i, layer in enumerate(self.layers):
            if i in self.global_layers:
                x = layer(x)
            else:
                x = x + self._attend_in_windows(layer.attn, layer.ln1(x), grid)
                x = layer.ffn(layer.ln2(x), identity=x)
        if self.final_norm:
            x = self.ln1(x)
        return (self._format_output(x, grid),)

    def _attend_in_windows(self, attention: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attention of tokens ``(N, extra + H * W, C)`` within windows, zeros beyond the map."""
        extra, patches = x.split([self.num_extra_tokens, grid[0] * grid[1]], dim=1)
        assert self.window is not None  # else all layers are global
        height, width = (min(self.window, edge) for edge in grid)
        patches = F.pad(
            patches.unflatten(1, grid), (0, 0, 0, -grid[1] % width, 0, -grid[0] % height)
        )
        windows = patches.unflatten(2, (-1, width)).unflatten(1, (-1, height)).transpose(2, 3)
        count = windows.shape[:3]  # images, rows and columns of windows
        extra = extra[:, None, None].expand(*count, -1, -1).flatten(0, 2)
        out = attention(torch.cat([extra, windows.flatten(3, 4).flatten(0, 2)], dim=1))
        extra, windows = out.unflatten(0, count).split([extra.shape[1], height * width], dim=3)
        patches = windows.unflatten(3, (height, width)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        patches = patches[:, : grid[0], : grid[1]].flatten(1, 2)
        return torch.cat([extra.mean(dim=(1, 2)), patches], dim=1)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Levels of several strides from one map, each by itself (ViTDet, arXiv 2203.16527).

    Args:
        in_channels: Of the map.
        out_channels: Of each level.
        scales: How much finer than the map each level is, powers of 2: a deconvolution for each
            doubling, max pooling for less than 1.
        num_outs: Number of levels; those beyond ``scales`` take every second value of the last.
        init_cfg: As mmengine has it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: tuple[float, ...] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_outs = num_outs
        self.levels = nn.ModuleList(_level(in_channels, out_channels, scale) for scale in scales)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Levels ``(N, out_channels, H, W)`` of the last map, the finest first."""
        outs = [level(inputs[-1]) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def _level(width: int, out_channels: int, scale: float) -> nn.Sequential:
    """Resize a map of a width, and project it."""
    steps: list[nn.Module] = []
    for doubling in range(round(math.log2(scale))):
        if doubling:
            steps += [LayerNorm2d(width, eps=1e-6), nn.GELU()]
        steps.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width //= 2
    if scale < 1:
        steps.append(nn.MaxPool2d(round(1 / scale)))
    return nn.Sequential(
        *steps,
        nn.Conv2d(width, out_channels, 1, bias=False),
        LayerNorm2d(out_channels, eps=1e-6),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels, eps=1e-6),
    )
