"""A pretrained backbone as a file for another library, checked before it is written."""

import inspect
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from mmpretrain.models.backbones import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import Stored
from ..datasets.views import view_size
from ..models.backbone import pooled
from ..models.feature_maps import TIMMFeatures, fitting_neck, probe
from ..parents import quiet
from .naming import (
    NAMINGS,
    TOLERANCE,
    Call,
    build_backbone,
    equivalent,
    example_images,
    relative_difference,
    rename,
    verify,
    with_maps,
)

TARGETS = (*NAMINGS, 'onnx', 'safetensors')

_BATCHES = (1, 2, 5)  # that an ONNX file is checked at


class Trained(NamedTuple):
    """The backbone of a checkpoint.

    Attributes:
        cfg: Its config, without any initialisation.
        backbone: The backbone itself, in evaluation mode.
        preprocessing: ``mean``, ``std`` and ``to_rgb`` of its training, empty
            if the checkpoint does not say them.
        edge: Of the images that it was trained with, in pixels.
    """

    cfg: dict
    backbone: nn.Module
    preprocessing: dict
    edge: int


@quiet()
def export_backbone(checkpoint: str | Path, out: str | Path, to: str) -> str:
    """Write a checkpoint's online backbone for another library.

    Nothing is written unless the library's own model, loaded with the
    converted weights, represents a random batch as the backbone does.

    Args:
        checkpoint: Checkpoint of a training, as mmengine saves it.
        out: File to write. For ``'mmpretrain'`` and ``'mmdet'``
            ``{'state_dict': ..., 'meta': ...}``, for the latter of a backbone that
            gives feature maps; for ``'torchvision'`` and
            ``'timm'`` a flat state dict; for ``'safetensors'`` the same in
            timm's naming, or in mmpretrain's where timm has no such model, as
            its metadata says; for ``'onnx'`` a graph from images
            ``(N, 3, H, W)`` of any N, at the size of training, to features
            ``(N, C)``, maps averaged over space.
        to: One of :data:`TARGETS`.

    Returns:
        One line that says what was written and how to load it.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ImportError: If the target's packages are missing.
        ValueError: If an argument is not usable, the library has no such
            architecture, or its representation differs.
    """
    if to not in TARGETS:
        raise ValueError(f'to={to!r} must be one of {", ".join(TARGETS)}')
    out = Path(out)
    if out.resolve() == Path(checkpoint).resolve():
        raise ValueError(f'out={str(out)!r} would overwrite the training checkpoint')
    trained = read_backbone(Stored.read(checkpoint))
    if to == 'onnx':
        return _write_onnx(trained, out)
    naming, call, weights = _convert(trained, to)
    out.parent.mkdir(parents=True, exist_ok=True)
    wrote = f'wrote {out} for {to}, verified; load it with'
    meta = dict(source=Path(checkpoint).name, architecture=str(call), naming=naming)
    if to == 'safetensors':
        meta |= dict(format='pt', **_as_text(trained.preprocessing))
        if isinstance(trained.backbone, VisionTransformer):  # weights do not tell it
            meta['num_heads'] = str(trained.backbone.arch_settings['num_heads'])
        save_file({key: value.contiguous() for key, value in weights.items()}, out, meta)
        model = call if naming == 'timm' else f'mmpretrain.registry.MODELS.build({call})'
        load = f'safetensors.torch.load_file({str(out)!r})'
        return f'{wrote} model = {model}; model.load_state_dict({load}, strict=False)'
    if to in ('mmpretrain', 'mmdet'):
        torch.save({'state_dict': weights, 'meta': meta}, out)
        init_cfg = dict(type='Pretrained', checkpoint=str(out))
        backbone = f'backbone={Call("dict", (), call.kwargs | dict(init_cfg=init_cfg))}'
        return f'{wrote} {backbone}{_neck(trained) if to == "mmdet" else ""}'
    torch.save(weights, out)
    load = f'model.load_state_dict(torch.load({str(out)!r}), strict=False)'
    return f'{wrote} model = {call}; {load}'


def read_backbone(stored: Stored) -> Trained:
    """The backbone of a checkpoint, by the config that is stored in it.

    Args:
        stored: Checkpoint of a training, or one that was imported.

    Raises:
        ValueError: If it has no backbone, or no config, or they do not fit.
    """
    prefix = 'backbone.'
    weights = {
        key.removeprefix(prefix): value
        for key, value in stored.weights.items()
        if key.startswith(prefix)
    }
    if not weights:
        raise ValueError(
            f'{stored.path} has no {prefix}* keys: pass a checkpoint that training saved, or make '
            'one of a foreign file by `mmsnclr import`'
        )
    full = stored.config
    if full is None:
        raise ValueError(f"{stored.path} lacks meta['cfg']: pass a checkpoint that training saved")
    cfg = full.model.backbone.to_dict()
    for key in ('_scope_', 'init_cfg', 'pretrained', 'checkpoint_path'):
        cfg.pop(key, None)
    backbone = build_backbone(cfg)
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f'{stored.path}: its backbone is not that of its own config: {error}'
        ) from error
    settings = full.model.get('data_preprocessor') or full.get('data_preprocessor') or {}
    preprocessing = {key: settings[key] for key in ('mean', 'std') if key in settings}
    if preprocessing:
        preprocessing['to_rgb'] = settings.get('to_rgb', settings.get('bgr_to_rgb', False))
    return Trained(cfg, backbone, preprocessing, view_size(full))


def _convert(trained: Trained, to: str) -> tuple[str, Call, dict[str, Tensor]]:
    """Naming, the call that builds the target, and verified weights."""
    cfg, source = trained.cfg, trained.backbone
    if to == 'safetensors':
        try:
            return _convert(trained, 'timm')
        except ValueError:
            return _convert(trained, 'mmpretrain')
    if to == 'mmdet':
        source = with_maps(source, cfg)
    call = equivalent(source, cfg, to)
    weights = {rename(key, source, to): value for key, value in source.state_dict().items()}
    verify(source, cfg, weights, call, to)
    return to, call, weights


def _neck(trained: Trained) -> str:
    """What of a detector's config goes with a backbone's maps."""
    maps = with_maps(trained.backbone, trained.cfg)
    channels, strides, _ = probe(maps, getattr(maps, 'divisor', 32))
    neck, strides = fitting_neck(channels, strides, norm=isinstance(maps, TIMMFeatures))
    text = f'; neck={Call("dict", (), neck)}'
    if neck['type'] != 'FPN':  # which mmdet has
        text += "; custom_imports=dict(imports=['mmsnclr'], allow_failed_imports=False)"
    return text + f'  # of strides {", ".join(map(str, strides))}'


class _Representation(nn.Module):
    """One vector per image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return pooled(self.backbone(images))


@torch.no_grad()
def _write_onnx(trained: Trained, out: Path) -> str:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter imports it
    except ImportError as error:
        raise ImportError(
            f"to='onnx' needs further packages ({error}): pip install onnx onnxruntime onnxscript"
        ) from error
    if 'dynamic_shapes' not in inspect.signature(torch.onnx.export).parameters:
        raise ImportError(f"to='onnx' needs a newer torch than {torch.__version__}: 2.9 will do")
    model = _Representation(trained.backbone).eval()
    images = example_images(trained.backbone, trained.cfg, max(_BATCHES), trained.edge)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        path = Path(folder) / 'backbone.onnx'
        torch.onnx.export(
            model,
            (images[:2],),
            path,
            input_names=['images'],
            output_names=['features'],
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(path)
    onnx.helper.set_model_props(graph, _as_text(trained.preprocessing))
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    for batch in _BATCHES:
        (actual,) = session.run(None, {'images': images[:batch].numpy()})
        difference = relative_difference(model(images[:batch]), torch.from_numpy(actual))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"to='onnx': onnxruntime represents {batch} images differently, by "
                f'{difference:.1e} relative, so nothing was written'
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    shape = ', '.join(map(str, images.shape[1:]))
    return (
        f'wrote {out} for onnx, verified at batches of {_BATCHES}; run it with '
        f'session = onnxruntime.InferenceSession({str(out)!r}); '
        f"session.run(None, {{'images': images}}) on float32 images of shape (N, {shape})"
    )


def _as_text(settings: dict) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in settings.items()}
