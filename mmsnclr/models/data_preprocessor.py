"""Views are moved to the device and normalised there."""

from typing import Any

from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS


@MODELS.register_module()
class ViewsDataPreprocessor(SelfSupDataPreprocessor):
    """mmpretrain's, without waiting for the device.

    That one moves every image's sample by itself, and reorders channels by an
    index that has to be moved as well. Here samples stay on the host.

    Args:
        *args: As for mmpretrain's.
        non_blocking: Whether the host goes on while views are moved.
        **kwargs: As for mmpretrain's.
    """

    def __init__(self, *args: Any, non_blocking: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, non_blocking=non_blocking, **kwargs)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Move and normalise views.

        Args:
            data: ``inputs``, a batch ``(N, 3, H, W)`` for each view, or one
                batch alone; ``data_samples``.
            training: As for mmpretrain's; changes nothing.

        Returns:
            The same, ``inputs`` in float32 on the device.
        """
        inputs, several = data['inputs'], isinstance(data['inputs'], list)
        views = self.cast_data(inputs if several else [inputs])
        if self._channel_conversion:
            views = [view.flip(1) for view in views]
        views = [view.float() for view in views]
        if self._enable_normalize:
            views = [(view - self.mean) / self.std for view in views]
        return dict(inputs=views if several else views[0], data_samples=data.get('data_samples'))
