"""Reproducible augmentation, also across a resume."""

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ...datasets.transforms import SeededTransform


@HOOKS.register_module()
class ViewSeedHook(Hook):
    """Tells every transform that makes seeded views its seed and epoch.

    Loops that count iterations have no epochs, and seeding would give an image
    the same views at each pass: there the views stay random.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch before the loader's workers start on it."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        for views in _seeded_views(runner.train_dataloader.dataset):
            views.set_epoch(runner.seed, runner.epoch)


def _seeded_views(dataset) -> Iterator[SeededTransform]:
    for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if isinstance(transform, SeededTransform):
            yield transform
    wrapped = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for inner in wrapped:
        if inner is not None:
            yield from _seeded_views(inner)
