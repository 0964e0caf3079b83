"""One representation vector per image, of any backbone and of timm's models."""

from typing import Any

from mmengine.logging import print_log
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.models.selfsup import MoCoV3ViT
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..parents import quiet


def pooled(outputs: tuple[Tensor, ...]) -> Tensor:
    """The representation of each image, ``(N, C)``: the last of a backbone's outputs.

    A map ``(N, C, H, W)`` is averaged over space; anything else is as it is.
    """
    last = outputs[-1]
    return last.mean(dim=(2, 3)) if last.ndim == 4 else last


def freeze_fixed_positions(network: nn.Module) -> None:
    """Freeze the positions of MoCo v3's ViTs, sines and cosines, wherever they are in a network.

    They do so on initialisation, after DDP has counted what learns, and not where they get weights.
    """
    for module in network.modules():
        if isinstance(module, MoCoV3ViT):
            module.pos_embed.requires_grad_(False)


def freeze_patch_embed(backbone: nn.Module) -> None:
    """Freeze the projection of a ViT's patches, of mmpretrain or timm.

    A network without one, or with several convolutions in its place, is left as it is.
    """
    network = getattr(backbone, 'timm_model', backbone)
    embedding = getattr(network, 'patch_embed', None)
    projection = getattr(embedding, 'projection', getattr(embedding, 'proj', None))
    if isinstance(projection, nn.Conv2d):
        projection.requires_grad_(False)
    else:
        print_log(
            f'{type(network).__name__} has no projection of patches, so '
            'model.frozen_patch_embed=True changes nothing.',
            logger='current',
        )


@MODELS.register_module()
class TIMMRepresentation(TIMMBackbone):
    """A timm model, pooled to one vector per image.

    mmpretrain's ``TIMMBackbone`` returns a model's features as they are: class
    and patch tokens, or a map whose channels come first or last. Here the
    class token stands for the image where there is one (SNCLR, appendix A),
    and the mean over patches or space where there is none. The few models that
    timm cannot build without their own pooling (CrossViT, CoaT) are left out.

    Args:
        *args: As for mmpretrain's ``TIMMBackbone``.
        frozen: Whether nothing of it learns, statistics of BN included.
        **kwargs: As for mmpretrain's ``TIMMBackbone``.
    """

    def __init__(self, *args: Any, frozen: bool = False, **kwargs: Any) -> None:
        with quiet():  # timm's stages, a line each
            super().__init__(*args, **kwargs)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> 'TIMMRepresentation':
        """Set the mode, which of a frozen model is always that of evaluation."""
        super().train(mode and not self.frozen)
        return self

    @property
    def out_channels(self) -> int:
        """Width of the representation."""
        # Some models widen after their features, before a classifier.
        return getattr(self.timm_model, 'head_hidden_size', self.timm_model.num_features)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Represent images.

        Args:
            x: Images, ``(N, 3, H, W)``.

        Returns:
            Representations, ``(N, C)``, in a tuple.
        """
        feat = super().forward(x)[-1]
        if feat.ndim == 3:
            if getattr(self.timm_model, 'cls_token', None) is not None:
                return (feat[:, 0],)
            skip = getattr(self.timm_model, 'num_prefix_tokens', 0)
            return (feat[:, skip:].mean(dim=1),)
        if feat.ndim == 4:
            channels_last = getattr(self.timm_model, 'output_fmt', None) == 'NHWC'
            return (feat.mean(dim=(1, 2) if channels_last else (2, 3)),)
        return (feat,)
