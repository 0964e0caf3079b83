"""A pretrained backbone as a file for another library, checked before it is written."""

import inspect
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmpretrain.models.backbones import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import Stored, refuse_to_replace, replacing, save_whole
from ..models.backbone import pooled
from ..models.feature_maps import TIMMFeatures, fitting_neck, probe
from ..parents import quiet
from .classifier import Classifier, read_classifier
from .naming import (
    NAMINGS,
    TOLERANCE,
    Call,
    equivalent,
    example_images,
    relative_difference,
    rename,
    verify,
    with_maps,
)
from .reading import Trained, read_backbone

TARGETS = (*NAMINGS, 'onnx', 'safetensors')

_BATCHES = (1, 2, 5)  # that an ONNX file is checked at


@quiet()
def export_backbone(checkpoint: str | Path, out: str | Path, to: str) -> str:
    """Write a checkpoint's online backbone for another library.

    Nothing is written unless the library's own model, loaded with the
    converted weights, represents a random batch as the backbone does.

    Args:
        checkpoint: Checkpoint of a training, or of another origin that
            :func:`~.reading.read_backbone` takes.
        out: File to write. For ``'mmpretrain'`` and ``'mmdet'``
            ``{'state_dict': ..., 'meta': ...}``, for the latter of a backbone that
            gives feature maps; for ``'torchvision'`` and
            ``'timm'`` a flat state dict; for ``'safetensors'`` the same in
            timm's naming, or in mmpretrain's where timm has no such model, as
            its metadata says; for ``'onnx'`` a graph from images
            ``(N, 3, H, W)`` of any N, at the size of training, to features
            ``(N, C)``, maps averaged over space, or, of a classifier, to the
            probabilities of its classes, which the metadata names.
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
    refuse_to_replace(out)
    stored = Stored.read(checkpoint)
    trained = read_backbone(stored)
    if to == 'onnx':
        return _write_onnx(trained, read_classifier(stored), out)
    naming, call, weights = _convert(trained, to)
    out.parent.mkdir(parents=True, exist_ok=True)
    wrote = f'wrote {out} for {to}, verified; load it with'
    meta = dict(source=Path(checkpoint).name, architecture=str(call), naming=naming)
    if to == 'safetensors':
        meta |= dict(format='pt', **_as_text(trained.preprocessing))
        if isinstance(trained.backbone, VisionTransformer):  # weights do not tell it
            meta['num_heads'] = str(trained.backbone.arch_settings['num_heads'])
        with replacing(str(out)) as temporary:
            save_file({key: v.contiguous() for key, v in weights.items()}, temporary, meta)
        model = call if naming == 'timm' else f'mmpretrain.registry.MODELS.build({call})'
        load = f'safetensors.torch.load_file({str(out)!r})'
        return f'{wrote} model = {model}; model.load_state_dict({load}, strict=False)'
    if to in ('mmpretrain', 'mmdet'):
        save_whole({'state_dict': weights, 'meta': meta}, out)
        init_cfg = dict(type='Pretrained', checkpoint=str(out))
        backbone = f'backbone={Call("dict", (), call.kwargs | dict(init_cfg=init_cfg))}'
        return f'{wrote} {backbone}{_neck(trained) if to == "mmdet" else ""}'
    save_whole(weights, out)
    load = f'model.load_state_dict(torch.load({str(out)!r}), strict=False)'
    return f'{wrote} model = {call}; {load}'


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
    """One vector per image, or the probability of each class."""

    def __init__(self, backbone: nn.Module, classifier: Classifier | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.layer = None if classifier is None else classifier.layer

    def forward(self, images: Tensor) -> Tensor:
        features = pooled(self.backbone(images))
        return features if self.layer is None else self.layer(features).softmax(dim=1)


@torch.no_grad()
def _write_onnx(trained: Trained, classifier: Classifier | None, out: Path) -> str:
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
    model = _Representation(trained.backbone, classifier).eval()
    meta = trained.preprocessing | (dict(classes=classifier.classes) if classifier else {})
    images = example_images(trained.backbone, trained.cfg, max(_BATCHES), trained.edge)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        path = Path(folder) / 'backbone.onnx'
        torch.onnx.export(
            model,
            (images[:2],),
            path,
            input_names=['images'],
            output_names=['probabilities' if classifier else 'features'],
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(path)
    onnx.helper.set_model_props(graph, _as_text(meta))
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
    with replacing(str(out)) as temporary:
        Path(temporary).write_bytes(content)
    shape = ', '.join(map(str, images.shape[1:]))
    return (
        f'wrote {out} for onnx, verified at batches of {_BATCHES}; run it with '
        f'session = onnxruntime.InferenceSession({str(out)!r}); '
        f"session.run(None, {{'images': images}}) on float32 images of shape (N, {shape})"
    )


def _as_text(settings: dict) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in settings.items()}
