"""One representation vector per image, of any backbone and of timm's models."""

from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.registry import MODELS
from torch import Tensor


def pooled(outputs: tuple[Tensor, ...]) -> Tensor:
    """The representation of each image, ``(N, C)``: the last of a backbone's outputs.

    A map ``(N, C, H, W)`` is averaged over space; anything else is as it is.
    """
    last = outputs[-1]
    return last.mean(dim=(2, 3)) if last.ndim == 4 else last


@MODELS.register_module()
class TIMMRepresentation(TIMMBackbone):
    """A timm model, pooled to one vector per image.

    mmpretrain's ``TIMMBackbone`` returns a model's features as they are: class
    and patch tokens, or a map whose channels come first or last. Here the
    class token stands for the image where there is one (SNCLR, appendix A),
    and the mean over patches or space where there is none. The few models that
    timm cannot build without their own pooling (CrossViT, CoaT) are left out.
    """

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
