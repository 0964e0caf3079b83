"""Steps whose loss or gradients are not finite are skipped and reported."""

from pathlib import Path

import torch
from mmengine.dist import all_gather, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from .neighbor_queue import unwrap


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Skips a step with NaN or inf in its gradients, and says where it came from.

    Weights, optimiser, momentum encoder, candidate set and BN statistics stay
    as they were before the step. The gradients are those of all ranks, so all
    ranks skip together. The paths of the batch's images go to
    ``non_finite_iter<N>_rank<R>.txt`` in the work directory. float16's overflows,
    which the loss scaler handles itself, do not count.

    Whether to step is the host's decision: it reads one number from the device
    before each optimiser step.

    Args:
        max_skipped: How many steps may be skipped before the run stops.
    """

    priority = 'ABOVE_NORMAL'  # before the momentum update

    def __init__(self, max_skipped: int = 10) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0
        self._bad: list[str] = []
        self._paths: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Look at the gradients before each optimiser step."""
        model = unwrap(runner.model)
        self._model = model
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
        self._statistics = [buffer for module in norms for buffer in module.buffers()]
        self._kept = [buffer.clone() for buffer in self._statistics]
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._before_step)

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Keep the BN statistics that a batch may spoil."""
        if not self._paths:  # else gradients are being accumulated
            for kept, buffer in zip(self._kept, self._statistics):
                kept.copy_(buffer)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *args) -> None:
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group['params'] if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([p.grad for p in parameters]))
        if bool(norms.isfinite().all()):
            return
        bad = (~norms.isfinite()).nonzero().flatten().tolist()
        self._bad = [self._names[parameters[index]] for index in bad]
        for parameter in parameters:
            parameter.grad = None  # an optimiser passes over these

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Report a skipped step, and stop if there have been too many.

        Raises:
            FloatingPointError: If more than ``max_skipped`` steps were skipped.
        """
        for sample in (data_batch or {}).get('data_samples') or ():
            path = sample.get('img_path')
            self._paths += path if isinstance(path, list) else [str(path)]
        runner.message_hub.update_info('step_skipped', bool(self._bad))
        if self._bad:
            self._report(runner, outputs or {})
        if runner.optim_wrapper.should_update():
            self._bad, self._paths = [], []

    def _report(self, runner: Runner, outputs: dict) -> None:
        for kept, buffer in zip(self._kept, self._statistics):
            buffer.copy_(kept)
        self.skipped += 1
        bad_loss = not all(v.isfinite().all() for v in outputs.values() if torch.is_tensor(v))
        device = next(self._model.parameters()).device
        ranks = all_gather(torch.tensor([int(bad_loss)], device=device))
        ranks = [rank for rank, bad in enumerate(ranks) if bad]
        path = Path(runner.work_dir, f'non_finite_iter{runner.iter + 1}_rank{get_rank()}.txt')
        path.write_text('\n'.join(self._paths) + '\n')
        where = f'the loss of rank {", ".join(map(str, ranks))}' if ranks else 'no loss'
        message = (
            f'Step {runner.iter + 1}: NaN or inf in {where} and in the gradients of '
            f'{len(self._bad)} tensors, the first {self._bad[0]}. The step was skipped '
            f'({self.skipped} so far); its images are listed in {path}.'
        )
        if self.skipped > self.max_skipped:
            raise FloatingPointError(
                f'{message} More than NonFiniteHook.max_skipped={self.max_skipped} were: lower '
                'optim_wrapper.optimizer.lr, look at the listed images, or train without --amp'
            )
        runner.logger.error(message)
