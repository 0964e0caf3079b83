"""The training loop over epochs, which can start within one."""

from collections.abc import Iterator
from itertools import islice

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import Sampler


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
            # Not an attribute that a DataLoader lets be set; loaders whose
            # workers outlive an epoch would keep a sampler of their own.
            self.dataloader.__dict__['batch_sampler'] = _Remaining(
                self.dataloader.batch_sampler, done
            )
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


class _Remaining:
    """A batch sampler that leaves out its first batches, once."""

    def __init__(self, batches: Sampler, done: int) -> None:
        self._batches = batches
        self._done = done

    def __iter__(self) -> Iterator[list[int]]:
        # Nothing happens before the first batch: a DataLoader may ask for two iterators.
        done, self._done = self._done, 0
        yield from islice(self._batches, done, None)

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str):
        return getattr(self._batches, name)
