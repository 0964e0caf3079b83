"""The training loop over epochs, which can start within one, and the workers of loops."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from ..datasets.loading_errors import naming_lost_workers
from ..parents import end_workers, skip_first_batches


@contextmanager
def using_workers(runner: Runner, *names: str) -> Iterator[None]:
    """Tell in one sentence which workers are lost, and end those of some loops in the end.

    Args:
        runner: What has the loops.
        names: Their names. Others may be running: a hook can validate within an epoch.
    """
    try:
        with naming_lost_workers():
            yield
    finally:
        for name in names:
            loop = getattr(runner, f'_{name}_loop')
            if isinstance(loop, BaseLoop):
                end_workers(loop.dataloader)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, resumed where the epoch was left.

    mmengine repeats the epoch from its start. Here the batches that were
    trained on are left out, and not loaded either.
    """

    def run(self) -> nn.Module:
        """Train to the last epoch."""
        done = self._batches_done()
        if done:
            skip_first_batches(self.dataloader, done)
        return super().run()

    def run_epoch(self) -> None:
        """Train to the end of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, self._batches_done()):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches_done(self) -> int:
        return self._iter - self._epoch * len(self.dataloader)
