"""The projector."""

from typing import Any

from mmpretrain.models.necks import NonLinearNeck
from mmpretrain.registry import MODELS
from torch import Tensor

from .backbone import pooled


@MODELS.register_module()
class SNCLRNeck(NonLinearNeck):
    """Projector of SNCLR: FC - BN - ReLU - FC, as BYOL's.

    The paper (Sec. 4.1 and appendix A) gives projector and predictor two
    fully-connected layers and no normalisation after the last. Three layers
    and a last BN without affine parameters (``num_layers=3,
    with_last_bn=True, with_last_bn_affine=False``) are the released ViT's.

    Args:
        in_channels: Width of the representation.
        hid_channels: Width of the hidden layers.
        out_channels: Width of the projection.
        num_layers: Number of fully-connected layers.
        with_last_bn: Whether a BN follows the last layer.
        **kwargs: Further arguments of mmpretrain's ``NonLinearNeck``.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int = 4096,
        out_channels: int = 256,
        num_layers: int = 2,
        with_last_bn: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            hid_channels,
            out_channels,
            num_layers=num_layers,
            with_bias=True,
            with_last_bn=with_last_bn,
            with_last_bias=True,
            with_avg_pool=False,
            **kwargs,
        )

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Project the backbone's last output.

        Args:
            feats: Backbone outputs; the last is a feature map ``(N, C, H, W)``,
                which is averaged over space, or a representation ``(N, C)``.

        Returns:
            The projections, ``(N, out_channels)``, in a tuple.

        Raises:
            ValueError: If the backbone returns a sequence of tokens.
        """
        feat = pooled(feats)
        if feat.ndim != 2:
            raise ValueError(
                f'the neck needs (N, C, H, W) or (N, C), not {tuple(feat.shape)}: set '
                "model.backbone.out_type='cls_token', or type='TIMMRepresentation' for a timm model"
            )
        return super().forward((feat,))
