"""Images that cannot be read during training are replaced, counted and listed."""

import csv
from multiprocessing import Queue
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...datasets.transforms import transforms_of
from ...datasets.views import AugmentedViews


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Lets a run go on when images are damaged or gone.

    :class:`~mmsnclr.datasets.views.AugmentedViews` then gives nothing for such
    an image, and the data set draws another one in its place. The paths and
    their errors go to ``unreadable_images_rank<R>.csv`` in the work directory
    as soon as they occur. Images that are gone before training starts, which
    :class:`~mmsnclr.datasets.ImageList` leaves out, are listed there, too.

    Args:
        max_share: Share of the images seen so far, from 0 to 1, above which
            the run stops. Some are always allowed: one batch's worth. A resumed
            run goes on from the counts in its checkpoint, which are rank 0's.
    """

    def __init__(self, max_share: float = 0.01) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'UnreadableImagesHook.max_share={max_share} must lie between 0 and 1')
        self.max_share = max_share
        self._told = False

    def before_train(self, runner: Runner) -> None:
        """Have the transforms report to here instead of raising."""
        self.count, self.seen = runner.message_hub.get_info('unreadable_images', (0, 0))
        # Made before the workers are, which inherit it.
        self._failures: Queue = Queue()
        self._path = Path(runner.work_dir, f'unreadable_images_rank{get_rank()}.csv')
        dataset = runner.train_dataloader.dataset
        for transform in transforms_of(dataset):
            if isinstance(transform, AugmentedViews):
                transform.failures = self._failures
        missing = getattr(dataset, 'missing', ())
        if missing:
            runner.logger.warning(
                f'{len(missing)} images are no longer there and are left out: see {self._path}'
            )
            for path in missing:
                self._list(runner, path, 'no longer there')

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Write down what failed.

        Raises:
            RuntimeError: If too many images cannot be read.
        """
        batch_size = runner.train_dataloader.batch_size or 1
        self.seen += batch_size
        self._drain(runner)
        # Checkpoints keep it; else each restart would allow as many again.
        runner.message_hub.update_info('unreadable_images', (self.count, self.seen))
        if self.count > max(batch_size, self.max_share * self.seen):
            raise RuntimeError(
                f'{self.count} of {self.seen} images could not be read, more than '
                f'UnreadableImagesHook.max_share={self.max_share}: see {self._path}'
            )

    def after_train(self, runner: Runner) -> None:
        """Write down what came late, and say once more how many there were."""
        self._drain(runner)
        if self.count:
            runner.logger.warning(f'{self.count} images could not be read: {self._path}')

    def _drain(self, runner: Runner) -> None:
        while not self._failures.empty():
            path, error = self._failures.get()
            self.count += 1
            runner.logger.warning(f'Another image takes the place of {path}: {error}')
            self._list(runner, path, error)

    def _list(self, runner: Runner, path: str, error: str) -> None:
        try:
            with open(
                self._path, 'a', newline='', encoding='utf-8', errors='backslashreplace'
            ) as file:
                csv.writer(file).writerow([path, error])
        except OSError as failure:  # a full disk ends no training, least of all on one rank
            if not self._told:
                runner.logger.error(f'Images cannot be listed in {self._path}: {failure}')
            self._told = True
