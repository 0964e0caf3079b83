"""Runs that are interrupted, and a record of what they did."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
from pathlib import Path

import torch
from helpers import small_run
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmsnclr.checkpoints import load_checkpoint
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks import checkpoint as checkpoint_hook
from mmsnclr.models.dist import unwrap

STEPS = 18
MOMENTS = ('forward', 'backward', 'enqueue', 'write', 'rename', 'record', 'remove')


@HOOKS.register_module()
class Record(Hook):
    """Appends to a file what each step trained on and its loss."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        self.path = Path(runner.work_dir) / f'record{runner.rank}.jsonl'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        images = [sample.img_path for sample in data_batch['data_samples']]
        rate = runner.optim_wrapper.get_lr()['lr'][0]
        loss = float(outputs['loss'].detach())
        line = dict(step=runner.iter, batch=batch_idx, images=images, loss=loss, rate=rate)
        with open(self.path, 'a') as file:
            print(json.dumps(line), file=file)


@HOOKS.register_module()
class Kill(Hook):
    """Ends its own process as `kill -9` does, at one moment of a step."""

    def __init__(self, step, moment, rank=0, number=signal.SIGKILL, once=False):
        self.step, self.moment, self.rank, self.number = step, moment, rank, number
        if once and os.environ.get('TORCHELASTIC_RESTART_COUNT') != '0':
            self.step = None

    def die(self, *args, **kwargs):
        os.kill(os.getpid(), self.number)

    def die_with_workers(self, model):
        # Sent by another process: workers forgive a SIGTERM of their parent.
        pids = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
        subprocess.run(['kill', f'-{int(self.number)}', *map(str, pids)], check=True)

    def worker(self, model):
        os.kill(multiprocessing.active_children()[0].pid, self.number)

    def fail(self, model):
        raise RuntimeError('an error of the training')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step and runner.rank == self.rank:
            getattr(self, self.moment)(unwrap(runner.model))

    def step_start(self, model):
        self.die()

    def forward(self, model):
        model.neck.register_forward_hook(self.die)

    def backward(self, model):
        next(model.backbone.parameters()).register_hook(self.die)

    def enqueue(self, model):
        enqueue = model.queue.enqueue

        def enqueue_half(features, ids, labels=None):
            half = len(features) // 2
            enqueue(features[:half], ids[:half], None)
            self.die()

        model.queue.enqueue = enqueue_half

    def write(self, model):
        def put_half(backend, content, path):
            Path(path).write_bytes(content[: len(content) // 2])
            self.die()

        LocalBackend.put = put_half

    def rename(self, model):
        os.replace = self.die

    def record(self, model):
        replace = os.replace

        def replace_but_the_record(source, target):
            if target.endswith('last_checkpoint'):
                self.die()
            replace(source, target)

        os.replace = replace_but_the_record

    def remove(self, model):
        checkpoint_hook.remove = self.die


class Limit(Hook):
    """Lets nobody write a checkpoint during some steps."""

    def __init__(self, kind, first, end):
        self.kind, self.first, self.end = kind, first, end

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter not in (self.first, self.end):
            return
        if self.kind in ('disk_full', 'no_byte_left'):
            size = 100_000 if self.kind == 'disk_full' else 300
            size = size if runner.iter == self.first else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        elif runner.iter == self.first:
            self.put = LocalBackend.put
            LocalBackend.put = self.refuse
        else:
            LocalBackend.put = self.put

    def refuse(self, content, path):
        raise PermissionError(errno.EACCES, 'Permission denied', path)


def run_config(digits, work_dir, **options):
    """18 steps over 3 epochs, a checkpoint every 4; what is drawn at random matters."""
    ranks = int(os.environ.get('WORLD_SIZE', 1))
    defaults = {
        'train_dataloader.batch_size': 16 // ranks,
        'launcher': 'pytorch' if ranks > 1 else 'none',
        'default_hooks.checkpoint': dict(by_epoch=False, interval=4, max_keep_ckpts=2),
        'model.backbone.drop_path_rate': 0.3,
    }
    return small_run(digits, work_dir, **(defaults | options))


def train(digits, work_dir, *hooks, **options):
    """Train by :func:`run_config`."""
    runner = build_runner(run_config(digits, work_dir, **options))
    for hook in (Record(), *hooks):
        runner.register_hook(hook)
    runner.train()
    return runner


def steps(work_dir, rank=0):
    """What each step did; a step that was trained twice did the same both times."""
    done = {}
    for line in (Path(work_dir) / f'record{rank}.jsonl').read_text().splitlines():
        line = json.loads(line)
        assert done.setdefault(line['step'], line) == line
    return list(done.values())


def assert_same_state(path, other):
    """All that two checkpoints hold is equal, bit for bit."""
    first, second = load_checkpoint(str(path)), load_checkpoint(str(other))
    for part in ('state_dict', 'optimizer', 'param_schedulers', 'random_states'):
        _assert_equal(first[part], second[part], part)
    assert {first['meta'][key] - second['meta'][key] for key in ('epoch', 'iter')} == {0}


def _assert_equal(first, second, name):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), name
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), name
        for key in first:
            _assert_equal(first[key], second[key], f'{name}.{key}')
    elif isinstance(first, list):
        assert len(first) == len(second), name
        for number, pair in enumerate(zip(first, second)):
            _assert_equal(*pair, f'{name}.{number}')
    elif not callable(first):
        assert first == second, name
