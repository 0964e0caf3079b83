"""Every rank takes part in the same collectives, whatever its own images, files and luck are."""

import json
import os
import resource
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import run_ranks, small_run
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmsnclr.datasets.views import AugmentedViews
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks.preemption import PREEMPTED
from mmsnclr.models.dist import unwrap

COLLECTIVES = """all_gather all_gather_into_tensor all_gather_object all_reduce barrier broadcast
broadcast_object_list gather gather_object new_group reduce scatter""".split()  # noqa: SIM905
LABELLED = {'train_dataloader.dataset.with_label': True}


def record(calls):
    """Note the name of each collective from now on, and shape and type of what it takes."""

    def note(name, call, *args, **kwargs):
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        calls.append([name, *(f'{tuple(x.shape)} {x.dtype}' for x in tensors)])
        return call(*args, **kwargs)

    for name in COLLECTIVES:
        setattr(dist, name, partial(note, name, getattr(dist, name)))


class OnRankOne(Hook):
    """Something that happens to rank 1 alone, from the third of its steps on."""

    priority = 'VERY_HIGH'

    def __init__(self, happen):
        self.happen = happen

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and runner.iter >= 2:
            self.happen(runner, data_batch)


def no_label(runner, batch):
    del batch['data_samples'][0].gt_label


def no_labels(runner, batch):
    for sample in batch['data_samples']:
        del sample.gt_label


def no_identity(runner, batch):
    forget_identity(batch['data_samples'][:1])


def no_identities(runner, batch):
    forget_identity(batch['data_samples'])


def forget_identity(samples):
    for sample in samples:
        sample.pop('img_path')
        sample.pop('sample_idx')


def not_finite(runner, batch):
    if runner.iter == 3:
        neck = unwrap(runner.model).neck
        spoil = neck.register_forward_hook(
            lambda *args: (spoil.remove(), (args[2][0] * torch.nan,))[1]
        )


def unreadable(runner, batch):
    def fail(self, results):
        AugmentedViews._make_views = make
        raise OSError('damaged')

    make, AugmentedViews._make_views = AugmentedViews._make_views, fail


def disk_full(runner, batch):
    size = 300 if runner.iter < 4 else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def preempted(runner, batch):
    if runner.iter == 3:
        os.kill(os.getpid(), signal.SIGUSR1)


def drifted(runner, batch):
    next(unwrap(runner.model).backbone.parameters()).data.add_(1e-3)


def nothing(runner, batch):
    pass


VIEWS = [dict(type='AugmentedViews', views=[dict(size=32)] * 2), dict(type='PackInputs')]
OWN_SETS = {'model.queue.sync': False}
CASES = {
    'a label is missing': (no_label, LABELLED),
    'all labels are missing': (no_labels, LABELLED),
    'an identity is missing': (no_identity, {}),
    'all identities are missing': (no_identities, {}),
    'features are not finite': (not_finite, {}),
    'an image is unreadable': (unreadable, {}),
    'the disk is full': (disk_full, OWN_SETS),
    'a signal comes': (preempted, {'default_hooks.preemption.interval': 1}),
    'weights have drifted': (drifted, {'default_hooks.rank_drift.interval': 4}),
    'the set is filled': (nothing, {'model.head.neighbors': 40}),
    'sets that differ are filled': (nothing, OWN_SETS | {'model.head.neighbors': 20}),
    'the last batch is short': (nothing, {'train_dataloader.batch_size': 20}),
    'the warm-up ends': (nothing, {'custom_hooks.0.warmup_epochs': 1, 'train_cfg.max_epochs': 2}),
    'lines are logged': (nothing, {'default_hooks.logger.interval': 3}),
}
WRITTEN = {
    'features are not finite': 'non_finite_iter4_rank1.txt',
    'an image is unreadable': 'unreadable_images_rank1.csv',
    'the disk is full': 'iter_6.pth',
}
ENDS = {'a signal comes': PREEMPTED, 'weights have drifted': 1}


def config(digits, work_dir, **options):
    defaults = {
        'train_dataloader.dataset.data_root': str(digits / 'labelled' / 'train'),
        'train_dataloader.dataset.pipeline': VIEWS,
        'train_dataloader.batch_size': 5,
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint': dict(by_epoch=False, interval=4, max_keep_ckpts=2),
        'default_hooks.preemption': dict(type='PreemptionHook'),
        'env_cfg.dist_cfg.timeout': 30,  # else what the ranks do not share would take long to fail
        'launcher': 'pytorch',
    }
    return small_run(digits, work_dir, **defaults | options)


def collectives(digits, work_dir, happen=nothing, prepare=lambda: None, **options):
    """Exit codes of two ranks, and what each of them took part in."""

    def run():
        calls, path = [], Path(work_dir, f'calls{os.environ["RANK"]}.json')
        record(calls)
        prepare()
        try:
            runner = build_runner(config(digits, work_dir, **options))
            runner.register_hook(OnRankOne(happen))
            runner.train()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            path.write_text(json.dumps(calls))

    codes = run_ranks(run, 2)
    return codes, *(json.loads((work_dir / f'calls{rank}.json').read_text()) for rank in range(2))


@pytest.mark.parametrize('case', CASES)
def test_both_ranks_take_part_in_the_same_collectives(digits, tmp_path, case):
    happen, options = CASES[case]
    codes, first, second = collectives(digits, tmp_path, happen, **options)
    assert codes == [ENDS.get(case, 0)] * 2
    assert first == second and len(first) > 20
    assert ['new_group'] not in first  # gloo's fails where a host's name is 127.0.x.x
    assert Path(tmp_path, WRITTEN.get(case, '.')).exists()


@pytest.mark.parametrize('how', ['resume', 'one node starts again'])
def test_both_ranks_go_on_alike(digits, tmp_path, how):
    collectives(digits, tmp_path)

    def prepare():
        if how != 'resume' and os.environ['RANK'] == '1':
            os.environ['TORCHELASTIC_RESTART_COUNT'] = '1'

    options = {'resume': how == 'resume', 'train_cfg.max_epochs': 2}
    codes, first, second = collectives(digits, tmp_path, prepare=prepare, **options)
    assert codes == [0, 0]
    assert first == second and len(first) > 20
    logs = '\n'.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'Training goes on at iteration 6' in logs
