"""Steps whose loss or gradients are not finite are skipped and reported."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...models.dist import sum_over_ranks, unwrap
from ...parents import watch_optimizer


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Skips a step with NaN or inf in its loss or gradients, and says where it came from.

    Weights, optimiser, loss scaler, momentum encoder, candidate set and BN
    statistics stay as they were before the step, on all ranks together. The
    paths of the batch's images go to ``non_finite_iter<N>_rank<R>.txt`` in the
    work directory. float16's overflows, which are gradients of a finite loss,
    are left to the loss scaler and do not count.

    Whether to step is the host's decision. Before each optimiser step it reads,
    in one, a number to which all ranks have added theirs, and the loss, which
    mmengine would otherwise read for its log.

    Args:
        max_skipped: How many of the last ``window`` iterations may be skipped
            before the run stops.
        window: Number of iterations; a resumed run goes on counting.
    """

    priority = 'HIGHEST'  # before the loss is logged

    def __init__(self, max_skipped: int = 10, window: int = 1000) -> None:
        if max_skipped < 0 or window < 1:
            raise ValueError(
                f'NonFiniteHook.max_skipped={max_skipped} must not be negative and '
                f'NonFiniteHook.window={window} must be at least 1'
            )
        self.max_skipped = max_skipped
        self.window = window
        self._loss: Tensor | None = None  # on the host once it was read
        self._bad: list[str] | None = None  # tensors, where a step was skipped
        self._paths: list[str] = []
        self._flags: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Look at each loss, and at the gradients before each step and before clipping."""
        self._model = model = unwrap(runner.model)
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
        by_type: dict[torch.dtype, list[Tensor]] = {}  # torch copies those of one type together
        for buffer in (buffer for module in norms for buffer in module.buffers()):
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._statistics = list(by_type.values())
        self._kept = [[buffer.clone() for buffer in group] for group in self._statistics]
        self.skipped = runner.message_hub.get_info('skipped_steps', 0)
        self._recent = list(runner.message_hub.get_info('recently_skipped_steps', ()))
        wrapper = runner.optim_wrapper
        self._scaled = hasattr(wrapper, 'loss_scaler')
        self._parameters = [p for group in wrapper.param_groups for p in group['params']]
        self._update, self._step = watch_optimizer(
            wrapper, self._look_and_update, self._step_if_finite
        )

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Keep the BN statistics that a batch may spoil."""
        if not self._paths:  # else gradients are being accumulated
            _copy(self._statistics, self._kept)

    def _look_and_update(self, loss: Tensor, **kwargs: Any) -> None:
        self._loss = loss.detach()
        # A bad image spoils its own rank's features, and by its key the loss of all ranks.
        parts = [loss.detach(), *(getattr(self._model, 'last_step', None) or (loss,))[:2]]
        flags = torch.stack([~part.isfinite().all() for part in parts])
        self._flags = flags if self._flags is None else self._flags | flags
        self._update(loss, **kwargs)

    @torch.no_grad()
    def _step_if_finite(self, **kwargs: Any) -> None:
        assert self._flags is not None and self._loss is not None  # of `_look_and_update`
        gradients = {p: p.grad for p in self._parameters if p.grad is not None}
        bad = self._flags[0].int()
        if not self._scaled:
            bad = bad + (~_finite(gradients)).sum()
        bad = sum_over_ranks(bad)
        bad, loss = torch.stack([bad.to(self._loss), self._loss]).tolist()
        self._loss = torch.tensor(loss, dtype=self._loss.dtype)
        if not bad:
            self._step(**kwargs)
            return
        finite = _finite(gradients).tolist()
        self._bad = [self._names[p] for p, good in zip(gradients, finite) if not good]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Report a skipped step, and stop if there have been too many.

        Raises:
            FloatingPointError: If more than ``max_skipped`` were skipped of late.
        """
        # Of a model with several losses, one may have the name of their sum.
        if outputs is not None and outputs.keys() == {'loss'}:
            outputs['loss'] = self._loss
        for sample in (data_batch or {}).get('data_samples') or ():
            path = sample.get('img_path')
            self._paths += path if isinstance(path, list) else [str(path)]
        runner.message_hub.update_info('step_skipped', self._bad is not None)
        if self._bad is not None:
            self._report(runner)
        if runner.optim_wrapper.should_update():
            self._bad, self._paths, self._flags = None, [], None

    def _report(self, runner: Runner) -> None:
        _copy(self._kept, self._statistics)
        self.skipped += 1
        self._recent = [step for step in self._recent if step > runner.iter - self.window]
        self._recent.append(runner.iter)
        runner.message_hub.update_info('skipped_steps', self.skipped)
        runner.message_hub.update_info('recently_skipped_steps', self._recent)
        path = Path(runner.work_dir, f'non_finite_iter{runner.iter + 1}_rank{get_rank()}.txt')
        with suppress(OSError):  # a full disk; one rank alone must not end
            path.write_text('\n'.join(self._paths) + '\n', 'utf-8', 'backslashreplace')
        first = (
            f'the gradients of {len(self._bad)} tensors, the first {self._bad[0]}'
            if self._bad
            else 'no gradient'
        )
        message = (
            f'Step {runner.iter + 1}: NaN or inf in {self._where()} and in {first}. '
            f'The step was skipped ({self.skipped} so far); its images are listed in {path}.'
        )
        if len(self._recent) > self.max_skipped:
            raise FloatingPointError(
                f'{message} {len(self._recent)} of the last NonFiniteHook.window={self.window} '
                f'were, more than NonFiniteHook.max_skipped={self.max_skipped}: lower '
                'optim_wrapper.optimizer.lr, look at the listed images, or train with --amp off'
            )
        runner.logger.error(message)

    def _where(self) -> str:
        """Whose features are to blame or, if nobody's are, whose loss."""
        assert self._flags is not None
        ranks = [flags.tolist() for flags in all_gather(self._flags.int())]
        losses = [rank for rank, (loss, *_) in enumerate(ranks) if loss]
        features = [rank for rank, (_, *parts) in enumerate(ranks) if any(parts)]
        blamed = ', '.join(map(str, features or losses))
        return f'the {"features" if features else "loss"} of rank {blamed}' if losses else 'no loss'


@torch.no_grad()
def _finite(gradients: dict[Tensor, Tensor]) -> Tensor:
    """Of which parameters the gradients are finite."""
    return torch.stack(torch._foreach_norm(list(gradients.values()))).isfinite()


def _copy(sources: list[list[Tensor]], targets: list[list[Tensor]]) -> None:
    for source, target in zip(sources, targets):
        torch._foreach_copy_(target, source)
