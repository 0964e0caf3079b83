"""A pretrained backbone as a file for another library, checked before it is written."""

import inspect
import json
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

from ..checkpoints.reading import load_checkpoint, stored_config
from ..datasets.views import view_size
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


def export_backbone(checkpoint_path: str | Path, out_path: str | Path, to: str) -> str:
    """Write a checkpoint's online backbone for another library.

    Nothing is written unless the library's own model, loaded with the
    converted weights, represents a random batch as the backbone does.

    Args:
        checkpoint_path: Checkpoint of a training, as mmengine saves it.
        out_path: File to write. For ``'mmpretrain'`` and ``'mmdet'``
            ``{'state_dict': ..., 'meta': ...}``; for ``'torchvision'`` and
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
    out_path = Path(out_path)
    if out_path.resolve() == Path(checkpoint_path).resolve():
        raise ValueError(f'out_path={str(out_path)!r} would overwrite the training checkpoint')
    trained = read_backbone(checkpoint_path)
    if to == 'onnx':
        return _write_onnx(trained, out_path)
    naming, call, weights = _convert(trained, to)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    wrote = f'wrote {out_path} for {to}, verified; load it with'
    meta = dict(source=Path(checkpoint_path).name, architecture=str(call), naming=naming)
    if to == 'safetensors':
        from safetensors.torch import save_file

        meta |= dict(format='pt', **_as_text(trained.preprocessing))
        if isinstance(trained.backbone, VisionTransformer):  # weights do not tell it
            meta['num_heads'] = str(trained.backbone.arch_settings['num_heads'])
        save_file({key: value.contiguous() for key, value in weights.items()}, out_path, meta)
        model = call if naming == 'timm' else f'mmpretrain.registry.MODELS.build({call})'
        load = f'safetensors.torch.load_file({str(out_path)!r})'
        return f'{wrote} model = {model}; model.load_state_dict({load}, strict=False)'
    if to in ('mmpretrain', 'mmdet'):
        torch.save({'state_dict': weights, 'meta': meta}, out_path)
        init_cfg = dict(type='Pretrained', checkpoint=str(out_path))
        return f'{wrote} backbone={Call("dict", (), call.kwargs | dict(init_cfg=init_cfg))}'
    torch.save(weights, out_path)
    load = f'model.load_state_dict(torch.load({str(out_path)!r}), strict=False)'
    return f'{wrote} model = {call}; {load}'


def read_backbone(path: str | Path) -> Trained:
    """The backbone of a checkpoint, by the config that is stored in it.

    Args:
        path: Checkpoint of a training, or one that was imported.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it has no backbone, or no config, or they do not fit.
    """
    given = f'checkpoint_path={str(path)!r}'
    if not Path(path).is_file():
        raise FileNotFoundError(f'{given} is not a file: pass a checkpoint that training saved')
    checkpoint = load_checkpoint(str(path))
    prefix = 'backbone.'
    weights = {
        key.removeprefix(prefix): value
        for key, value in checkpoint.get('state_dict', {}).items()
        if key.startswith(prefix)
    }
    if not weights:
        raise ValueError(
            f'{given} has no {prefix}* keys: pass a checkpoint that training saved, or make one '
            'of a foreign file by `mmsnclr import`'
        )
    full = stored_config(checkpoint)
    if full is None:
        raise ValueError(f"{given} lacks meta['cfg']: pass a checkpoint that training saved")
    cfg = full.model.backbone.to_dict()
    for key in ('_scope_', 'init_cfg', 'pretrained', 'checkpoint_path'):
        cfg.pop(key, None)
    backbone = build_backbone(cfg)
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f'{given}: its backbone is not that of its own config: {error}') from error
    stored = full.model.get('data_preprocessor') or full.get('data_preprocessor') or {}
    preprocessing = {key: stored[key] for key in ('mean', 'std') if key in stored}
    if preprocessing:
        preprocessing['to_rgb'] = stored.get('to_rgb', stored.get('bgr_to_rgb', False))
    return Trained(cfg, backbone, preprocessing, view_size(full))


def _convert(trained: Trained, to: str) -> tuple[str, Call, dict[str, Tensor]]:
    """Naming, the call that builds the target, and verified weights."""
    cfg, source = trained.cfg, trained.backbone
    if to == 'safetensors':
        try:
            return _convert(trained, 'timm')
        except ValueError:
            return _convert(trained, 'mmpretrain')
    call = equivalent(source, cfg, to)
    weights = {rename(key, source, to): value for key, value in source.state_dict().items()}
    verify(source, cfg, weights, call, to)
    return to, call, weights


class _Representation(nn.Module):
    """One vector per image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[-1]
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features


@torch.no_grad()
def _write_onnx(trained: Trained, out_path: Path) -> str:
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
    # The exporter talks of operators that no backbone has.
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
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
    out_path.parent.mkdir(parents=True, exist_ok=True)
    out_path.write_bytes(content)
    shape = ', '.join(map(str, images.shape[1:]))
    return (
        f'wrote {out_path} for onnx, verified at batches of {_BATCHES}; run it with '
        f'session = onnxruntime.InferenceSession({str(out_path)!r}); '
        f"session.run(None, {{'images': images}}) on float32 images of shape (N, {shape})"
    )


def _as_text(settings: dict) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in settings.items()}
