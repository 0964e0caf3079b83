"""A long run neither grows nor slows: `pytest -m slow tests/engine/test_soak.py -s`, 20 minutes."""

import os
import time
from statistics import median

import numpy as np
import pytest
import torch
from helpers import small_run
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmsnclr.datasets.image_id import image_id
from mmsnclr.engine import build_runner

STEPS, BATCH, LENGTH = 20_000, 16, 128_000


@HOOKS.register_module()
class SoakHook(Hook):
    """Notes memory in MB and time of every step, and the images in their order."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.memory, self.seconds, self.ids = [], [], []

    def before_train_iter(self, runner, *args, **kwargs):
        self.start = time.process_time()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seconds.append(time.process_time() - self.start)
        with open('/proc/self/statm') as file:
            self.memory.append(int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6)
        self.ids += [image_id(sample) for sample in data_batch['data_samples']]


@pytest.mark.slow
def test_memory_and_time_stay_flat_and_the_set_is_right(digits, tmp_path):
    config = small_run(
        digits,
        tmp_path,
        **{
            'model.neck.out_channels': 32,
            'model.head.predictor.in_channels': 32,
            'model.head.predictor.out_channels': 32,
            'model.queue': dict(length=LENGTH, dim=32),
            'train_dataloader.batch_size': BATCH,
            'train_dataloader.sampler.type': 'InfiniteSampler',
            'train_dataloader.dataset.pipeline': [
                dict(type='AugmentedViews', views=[dict(size=16), dict(size=16)]),
                dict(type='PackInputs'),
            ],
            'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=STEPS),
            'param_scheduler': None,
            'default_hooks.logger.interval': 50,
            'default_hooks.checkpoint': dict(by_epoch=False, interval=5000, max_keep_ckpts=1),
        },
    )
    config.custom_hooks.append(dict(type='SoakHook'))
    runner = build_runner(config)
    runner.train()
    soak = next(hook for hook in runner.hooks if isinstance(hook, SoakHook))
    full = LENGTH // BATCH + 1000  # from here on the set no longer grows
    thousands = np.arange(STEPS) / 1000
    growth = np.polyfit(thousands[full:], soak.memory[full:], 1)[0]
    early, late = (median(soak.seconds[i : i + 2000]) for i in (full, STEPS - 2000))
    print(f'\nmemory {soak.memory[-1]:.0f} MB, growth {growth:.3f} MB per 1,000 steps')
    print(f'step {1000 * early:.1f} ms when the set was full, {1000 * late:.1f} ms at the end')
    assert growth < 1
    assert late < 1.15 * early

    queue = runner.model.queue
    assert queue._enqueued == STEPS * BATCH
    oldest = STEPS * BATCH % LENGTH
    assert torch.equal(queue.ids.roll(-oldest), torch.tensor(soak.ids[-LENGTH:]))
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(LENGTH))
