"""What the comparison on CIFAR-10 measures, and a candidate set of which only a part is found."""

import json
import math
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from mmsnclr.datasets.image_id import image_id
from mmsnclr.evaluation import extract_features, knn_accuracy
from mmsnclr.evaluation.health import positiveness_entropy
from mmsnclr.models import NeighborQueue
from mmsnclr.models.queue import Neighbors


@MODELS.register_module()
class FilteredQueue(NeighborQueue):
    """A candidate set of which only a part may be found.

    Args:
        *args: Those of ``NeighborQueue``.
        recent: How many of the newest entries may be found; all by default.
        same_class: Whether only entries of the query's true class may be.
        **kwargs: Those of ``NeighborQueue``.
    """

    classes: dict[int, int] = {}  # of every image, by its identity

    def __init__(
        self, *args, recent: int | None = None, same_class: bool = False, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.recent, self.same_class = recent, same_class

    @torch.no_grad()
    def search(self, queries: Tensor, ids: Tensor | None, k: int) -> Neighbors:
        """Find the K most similar entries that may be found; without ``ids``, of any class."""
        similarity = queries @ self.features[: self.fill].T
        hidden = torch.zeros_like(similarity, dtype=torch.bool)
        if ids is not None:
            hidden |= self.ids[: self.fill] == ids[:, None]
        if self.recent is not None:
            age = (self._enqueued - 1 - torch.arange(self.fill)) % self.length
            hidden |= age >= self.recent
        if self.same_class and ids is not None:
            classes = torch.tensor([self.classes[number] for number in ids.tolist()])
            hidden |= self.labels[: self.fill] != classes[:, None]
        similarity, index = similarity.masked_fill(hidden, -torch.inf).topk(k, dim=1)
        return Neighbors(index, similarity, similarity > -torch.inf)


@HOOKS.register_module()
class ProbeHook(Hook):
    """Measures k-NN and linear top-1, what neighbours are like, and time spent in training.

    Args:
        data: Folder with `train` and `test`.
        path: File that gets a line of JSON for each measurement.
        interval: Epochs between them; the last epoch is always measured.
    """

    def __init__(self, data: str, path: str, interval: int) -> None:
        self.path, self.interval, self.seconds = path, interval, 0.0
        loader = dict(
            batch_size=500,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='CustomDataset',
                pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
            ),
        )
        self.batches = []
        for split in ('train', 'test'):
            loader['dataset']['data_root'] = f'{data}/{split}'
            self.batches.append(list(Runner.build_dataloader(loader)))

    def before_train(self, runner: Runner) -> None:
        """Measure the start."""
        infos = runner.train_dataloader.dataset
        infos = [infos.get_data_info(index) for index in range(len(infos))]
        FilteredQueue.classes = {image_id(info): info['gt_label'] for info in infos}
        if runner.epoch == 0:
            self._measure(runner, 0)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        self.start = time.process_time()

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure."""
        self.seconds += time.process_time() - self.start
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._measure(runner, runner.epoch + 1)

    def _measure(self, runner: Runner, epoch: int) -> None:
        model = runner.model
        with torch.autocast('cpu', torch.bfloat16):
            (bank, bank_labels), (queries, labels) = (
                extract_features(model, batches) for batches in self.batches
            )
            encoders = model.momentum_encoder, model.online_encoder
            keys, projections = (
                extract_features(model, self.batches[1], encoder)[0] for encoder in encoders
            )
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, tol=1e-3))
        linear.fit(bank, bank_labels)
        values = dict(
            epoch=epoch,
            seconds=self.seconds,
            knn=knn_accuracy(bank, bank_labels, queries, labels)[20],
            linear=100 * linear.score(queries, labels),
        )
        if model.queue.fill:
            found = NeighborQueue.search(model.queue, F.normalize(keys, dim=1), None, 20)
            same = (model.queue.labels[found.index] == labels[:, None]).float()
            values['purity'] = 100 * float(same.mean())
            if model.weighs:
                weights = model.log_weights(projections, model.queue.features, found)
                share = weights.softmax(dim=1)
                values['weighed purity'] = 100 * float((share * same).sum(dim=1).mean())
                entropy = positiveness_entropy(weights, found.valid)
                values['entropy'] = 100 * float(entropy) / math.log(20)
        self.seconds = 0.0
        with open(self.path, 'a') as file:
            file.write(json.dumps(values) + '\n')
        text = ', '.join(f'{key} {value:.1f}' for key, value in values.items())
        print(f'{Path(self.path).parent.name}: {text}', flush=True)


def read(path: Path) -> list[dict]:
    """The figures of a run."""
    return [json.loads(line) for line in path.read_text().splitlines()]
