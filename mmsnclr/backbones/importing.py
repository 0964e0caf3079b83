"""Backbones that other code trained, as a checkpoint that this toolkit's configs start from."""

from pathlib import Path

from mmengine.config import Config

from ..checkpoints import Stored, refuse_to_replace, save_whole
from ..parents import quiet
from .naming import Call, equivalent, verify
from .reading import recognise


@quiet()
def import_backbone(
    checkpoint: str | Path,
    out: str | Path,
    heads: int | None = None,
    timm_model: str | None = None,
) -> str:
    """Write a foreign backbone as a checkpoint to start from.

    What it is, is seen from its keys: one of the kinds in
    :data:`~.origins.ORIGINS`, or a ResNet or ViT of torchvision, timm or
    mmpretrain. Nothing is written unless the backbone represents random images
    as the original library's model does. Files are read without
    running code that they may hold. The normalisation of images that is noted
    is timm's for a named model, else by ImageNet's mean and deviation.

    Args:
        checkpoint: ``.safetensors``, or what ``torch.save`` wrote.
        out: File to write. ``init_cfg=dict(type='Pretrained',
            checkpoint=out, prefix='backbone.')`` fills a backbone from
            it; ``meta['cfg']`` has the backbone's config.
        heads: Number of a ViT's attention heads, which weights do not tell; by
            default what a file of :func:`~.exporting.export_backbone`
            notes, else what is usual for its origin and width.
        timm_model: Name of the timm model that the weights are of, for any
            other architecture.

    Returns:
        One line that says what was found and how to start from it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the format is not known, says what was found.
    """
    if Path(out).resolve() == Path(checkpoint).resolve():
        raise ValueError(f'out={str(out)!r} would overwrite the original')
    if Path(out).is_dir():
        raise ValueError(f'out={str(out)!r} is a folder: pass the file to write')
    refuse_to_replace(out)
    trained, what, naming, weights = recognise(Stored.read(checkpoint), heads, timm_model)
    cfg, backbone = trained.cfg, trained.backbone
    verify(backbone, cfg, weights, equivalent(backbone, cfg, naming), naming)

    full = dict(model=dict(backbone=cfg, data_preprocessor=trained.preprocessing))
    meta = dict(source=Path(checkpoint).name, cfg=Config(full).pretty_text)
    weights = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_whole(dict(state_dict=weights, meta=meta), out)
    init_cfg = dict(type='Pretrained', checkpoint=str(out), prefix='backbone.')
    return (
        f'found {what}; wrote {out}, verified; start from it with '
        f'backbone={Call("dict", (), cfg | dict(init_cfg=init_cfg))}'
    )
