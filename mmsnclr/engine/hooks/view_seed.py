"""Reproducible augmentation, also across a resume."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ...datasets.transforms import SeededTransform, transforms_of


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
        for transform in transforms_of(runner.train_dataloader.dataset):
            if isinstance(transform, SeededTransform):
                transform.set_epoch(runner.seed, runner.epoch)
