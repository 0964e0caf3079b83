"""Tells in every log line, and in words, whether pretraining works."""

import math
from collections import Counter
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...evaluation import health
from ...evaluation.knn import vote
from ...models import NeighborMethod
from ...models.dist import unwrap
from ...models.queue import UNKNOWN

_RECOVERED = dict(
    diverged='Features are finite again.',
    collapsed='Features of different images differ again: the collapse is over.',
    noise='Neighbours are better than random images again.',
)


@HOOKS.register_module()
class HealthHook(Hook):
    """Logs the health of features and neighbours, and warns when they are ill.

    Works for every :class:`NeighborMethod`, in the steps that are logged only, on
    the main process and without talking to others: where each rank has a set of
    its own, the main process's is described.

    What is logged, shares being from 0 to 1:

    - ``feature_std``: of the newest keys, 1 where they spread evenly, 0 after a
      collapse; ``effective_rank`` and ``random_similarity``, the mean cosine of
      random pairs, are of the same keys.
    - ``neighbor_similarity``: mean cosine of the step's neighbours (in a
      warm-up, of those that would be used).
    - ``view_recall``: share of images whose other view is nearer than their
      K-th neighbour; ``chance_recall`` is K over the number of entries.
    - ``self_in_set``: share of images with an own older feature in the set;
      ``self_excluded``: of images with one that was passed over though it would
      have been among the K.
    - ``positiveness_entropy`` in nats; ``positiveness_evenness``, that over
      ``log(K)``.
    - ``queue_fill``; ``queue_age``: iterations since the oldest entry was made.
    - ``neighbor_purity``, ``chance_purity`` of random entries, ``knn_accuracy``:
      where images have labels, which nothing is trained on.

    Args:
        samples: Number of newest features that are looked at.
        patience: Number of log lines in a row that have to be bad, or good
            again, before something is said.
    """

    priority = 'ABOVE_NORMAL'  # before the step's keys enter the set

    def __init__(self, samples: int = 1024, patience: int = 3) -> None:
        if min(samples, patience) < 1:
            raise ValueError(
                f'HealthHook.samples={samples} and HealthHook.patience={patience} must be positive'
            )
        self.samples = samples
        self.patience = patience
        self._streaks: Counter[str] = Counter()
        self._told: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Find out when lines are logged.

        Raises:
            ValueError: If the model has no candidate set.
        """
        model = unwrap(runner.model)
        if not isinstance(model, NeighborMethod):
            raise ValueError(
                f'HealthHook describes methods with neighbours, not {type(model).__name__}: set '
                'default_hooks.health=None'
            )
        self._logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)

    @torch.no_grad()
    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Measure, log and warn."""
        if not is_main_process() or not self._is_logged(runner, batch_idx):
            return
        model = unwrap(runner.model)
        values = {name: float(value) for name, value in self.measure(model).items()}
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        found = health.findings(values, runner.cfg)
        if not model.use_neighbors:
            found.pop('noise', None)
        self._tell(runner, found)

    def _is_logged(self, runner: Runner, batch_idx: int) -> bool:
        if self._logger is None:
            return False
        interval, length = self._logger.interval, len(runner.train_dataloader)
        at_end = batch_idx + 1 == length and (not self._logger.ignore_last or length <= interval)
        return at_end or self.every_n_inner_iters(batch_idx, interval)

    def measure(self, model: NeighborMethod) -> dict[str, Tensor | float]:
        """Measure what can be told after a training step.

        Args:
            model: The model, whose keys of the step have not entered the set.

        Returns:
            Scalars by the names that are logged.
        """
        queue, step = model.queue, model.last_step
        assert step is not None
        values = dict(queue_fill=queue.fill / queue.length)
        per_iteration = len(step.keys) * (get_world_size() if queue.sync else 1)
        values['queue_age'] = queue.fill / per_iteration
        features = queue.newest(self.samples).float()
        if len(features) > 1:
            values['feature_std'] = health.feature_std(features)
            values['random_similarity'] = health.pair_similarity(features)
            values['effective_rank'] = health.effective_rank(features)
        k = model.neighbors or 1  # where all entries count, the nearest is looked at
        if queue.fill >= k:
            values |= self._neighbors(model, k)
        return values

    def _neighbors(self, model: NeighborMethod, k: int) -> dict[str, Tensor | float]:
        queue = model.queue
        assert model.last_step is not None
        projections, keys, ids, labels = model.last_step
        found = queue.search(keys, ids, k)
        values = dict(
            neighbor_similarity=found.similarity[found.valid].mean(),
            view_recall=health.view_recall(projections.float(), keys, found),
            chance_recall=k / queue.fill,
        )
        if model.weighs and model.diagnostics is not None:
            entropy = health.positiveness_entropy(
                model.diagnostics.log_weights, model.diagnostics.neighbors.valid
            )
            values['positiveness_entropy'] = entropy
            values['positiveness_evenness'] = entropy / math.log(k)
        if (known := ids != UNKNOWN).any():
            nearest, ids = queue.search(keys[known], None, k).index, ids[known]
            values['self_in_set'] = torch.isin(ids, queue.ids[: queue.fill]).float().mean()
            values['self_excluded'] = (queue.ids[nearest] == ids[:, None]).any(dim=1).float().mean()
        if (known := labels >= 0).any():
            theirs, labels = queue.labels[found.index[known]], labels[known]
            used = found.valid[known] & (theirs >= 0)
            in_set = queue.labels[: queue.fill]
            predicted = vote(theirs, found.similarity[known])
            values['neighbor_purity'] = (theirs == labels[:, None])[used].float().mean()
            values['chance_purity'] = (in_set[in_set >= 0] == labels[:, None]).float().mean()
            values['knn_accuracy'] = (predicted == labels).float().mean()
        return values

    def _tell(self, runner: Runner, found: dict[str, str]) -> None:
        """Warn once about each condition that stays, and say when it is over."""
        for name in self._told | found.keys() | self._streaks.keys():
            bad = name in found
            self._streaks[name] = self._streaks[name] + 1 if bad != (name in self._told) else 0
            if self._streaks[name] < (1 if name == 'diverged' else self.patience):
                continue
            self._streaks[name] = 0
            if bad:
                self._told.add(name)
                runner.logger.warning(found[name])
            else:
                self._told.remove(name)
                runner.logger.warning(_RECOVERED[name])
