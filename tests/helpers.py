"""Small real models and runs that the tests share."""

import copy
import functools
import gc
import multiprocessing
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mmengine.config.utils
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn import functional as F
from yapf.yapflib import yapf_api

from mmsnclr.datasets.image_id import image_id
from mmsnclr.engine import build_runner, launch
from mmsnclr.models import NeighborMethod
from mmsnclr.models.dist import unwrap

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300  # seconds after which a run that shares a slow machine counts as hanging

# Small runs would spend most of their time on what nobody looks at here: each lays its config out
# five times for readers, and looks for each parent's in a hundred lists of all that it has.
yapf_api.FormatCode = lambda code, style_config: (code, True)
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)


def small_model(**options) -> dict:
    """Config of an SNCLR model that trains in a fraction of a second."""
    config = Config.fromfile(ROOT / 'configs/demo/snclr_digits.py')
    model = config.model
    model.neck.update(hid_channels=32, out_channels=16)
    model.head.predictor.update(in_channels=16, hid_channels=32, out_channels=16)
    model.head.neighbors = 4
    model.queue.update(length=64, dim=16)
    model.channels_last = False
    config.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    return config.model


# What changes a step of SNCLR.
STEP_OPTIONS = [
    {},
    {'queue.dtype': 'bfloat16'},
    {'queue.sync': False},
    {'head.loss.form': 'sum_log'},
    {'head.loss.neighbors_in': 'negatives'},
    {'head.loss.neighbors_in': 'positives'},
    {'head.projection': 'linear'},
    {'end_momentum_coefficient': 1.0},
]
METHODS = {
    'snclr': {},
    'nnclr': {'type': 'NNCLR', 'head.neighbors': 1, 'momentum_coefficient': 0.0},
    'sce': {'type': 'SCE', 'head': dict(type='SCEHead', _delete_=True)},
    'sce, symmetric': {
        'type': 'SCE',
        'symmetric': True,
        'head': dict(type='SCEHead', _delete_=True),
    },
}


def pretrained_resnet(path: Path, **backbone) -> Path:
    """Save a narrow ResNet-18 as pretraining does."""
    resnet = dict(type='ResNet', depth=18, stem_channels=16, base_channels=16)
    return pretrained_backbone(path, resnet | backbone)


def pretrained_backbone(path: Path, backbone: dict) -> Path:
    """Save a backbone as pretraining does."""
    model = small_model()
    model.backbone = backbone
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        weights = MODELS.build(copy.deepcopy(model)).state_dict()
    meta = dict(cfg=Config(dict(model=model)).pretty_text)
    torch.save(dict(state_dict=weights, meta=meta), path)
    return path


def config_of(method: str) -> dict:
    """:func:`small_model` of one of :data:`METHODS`."""
    model = small_model()
    for key, value in METHODS[method].items():
        if key == 'head':
            model.head = {k: v for k, v in value.items() if k != '_delete_'}
        elif '.' in key:
            model.head[key.partition('.')[2]] = value
        else:
            model[key] = value
    return model


def small_run(digits: Path, work_dir: Path, **options) -> Config:
    """Config of a run over the small pictures: 6 steps an epoch, 3 epochs."""
    config = Config.fromfile(ROOT / 'configs/demo/snclr_digits.py')
    config.model = small_model()
    config.custom_hooks[0].warmup_epochs = 0
    config.optim_wrapper.type = 'OptimWrapper'
    config.work_dir = str(work_dir)
    config.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(digits / 'unlabelled'),
            'train_dataloader.batch_size': 16,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_cfg.max_epochs': 3,
            'default_hooks.logger.interval': 1,
            'log_level': 'WARNING',
            **options,
        }
    )
    return config


def run_with(digits: Path, work_dir: Path, hooks: list[dict], **options) -> Runner:
    """Runner of :func:`small_run` with further hooks."""
    config = small_run(digits, work_dir, **options)
    config.custom_hooks += hooks
    return build_runner(config)


def launch_forked(config: LaunchConfig, function: Callable) -> Callable:
    """torch's elastic launcher, whose processes are forked: importing takes longer than they run.

    What it is given can be pickled nonetheless, as processes that start anew need it.
    """
    start = elastic_launch(replace(config, start_method='fork'), _as_if_anew)
    return lambda *args: start(*pickle.loads(pickle.dumps((function, *args))))


def _forget_handlers() -> None:
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _as_if_anew(function: Callable, *args) -> None:
    """Call a function in a process that was forked while signals had handlers."""
    _forget_handlers()
    function(*args)


launch.elastic_launch = launch_forked

# Python with all that the tools import: a tool that is forked from it need not wait for that.
_WARM = multiprocessing.get_context('forkserver')
_WARM.set_forkserver_preload(['helpers', 'mmsnclr.cli', 'mmsnclr.api', 'mmdet.apis'])


def run_tool(*command: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """Run a tool as a user does, on one thread, in a process of its own."""
    env = {'OMP_NUM_THREADS': '1', 'PORT': str(free_port()), 'PYTHON': sys.executable} | env
    if command[0] == '-c' or not command[0].endswith(('.py', '-m')):
        command = (sys.executable, *command) if command[0] == '-c' else command
        return subprocess.run(
            command, cwd=cwd, env=os.environ | env, capture_output=True, text=True
        )
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ('stdout', 'stderr')]
        process = start_tool(command, cwd, env, said)
        process.join()
        return subprocess.CompletedProcess(
            command, process.exitcode, *(path.read_text() for path in said)
        )


def start_tool(
    command: tuple[str, ...], cwd: Path, env: dict[str, str], said: list[Path]
) -> multiprocessing.Process:
    """Start what :func:`run_tool` runs; ``said``: files for what it prints."""
    process = _WARM.Process(target=_be_tool, args=(command, cwd, env, said))
    process.start()
    return process


def _be_tool(command: tuple[str, ...], cwd: Path, env: dict[str, str], said: list[Path]) -> None:
    """What Python does with its command line, in a process that has imported its modules."""
    gc.freeze()
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w') for number in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # not the way in which it was started
    warnings.resetwarnings()
    if command[0] == '-m':
        sys.path[0], sys.argv = str(cwd), list(command[1:])
        return runpy.run_module(command[1], run_name='__main__', alter_sys=True)
    sys.path[0], sys.argv = str(Path(command[0]).parent), list(command)
    runpy.run_path(command[0], run_name='__main__')


def run_ranks(function: Callable, ranks: int, *args) -> list[int]:
    """Run a function in processes joined by gloo; their exit codes, negative for signals.

    Those that hang are aborted: tests send other signals themselves, and pytest's fault handler
    shows on SIGABRT where a process was.
    """
    port = str(free_port())

    def rank_main(rank: int) -> None:
        _forget_handlers()
        torch.set_num_threads(1)
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=str(ranks))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        function(*args)

    context = multiprocessing.get_context('fork')  # importing takes longer than these runs
    processes = [context.Process(target=rank_main, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    end = time.monotonic() + LIMIT
    for process in processes:
        process.join(max(0, end - time.monotonic()))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGABRT)
            os.kill(process.pid, signal.SIGCONT)  # a stopped process takes no other signal
            process.join()
    return [process.exitcode for process in processes]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often ``torch.load`` opens each file from now on, by absolute path."""
    reads, load = Counter(), torch.load

    def counting(file, *args, **kwargs):
        reads[os.path.abspath(getattr(file, 'name', file))] += 1
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', counting)
    return reads


def free_port() -> int:
    """A port that no other process uses."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def images(count: int, seed: int, first_id: int = 0) -> tuple[list[torch.Tensor], list[DataSample]]:
    """Two random views of each of some images, and their data samples."""
    generator = torch.Generator().manual_seed(seed)
    colour = 3 * torch.randn(count, 3, 1, 1, generator=generator)  # tells images apart
    views = [colour + torch.randn(count, 3, 32, 32, generator=generator) for _ in range(2)]
    samples = [DataSample(metainfo=dict(img_path=f'{first_id + i}.png')) for i in range(count)]
    return views, samples


def build_method(config: dict, seed: int = 0) -> NeighborMethod:
    """A method ready to train without SyncBN, both of its encoders alike."""
    torch.manual_seed(seed)
    model = revert_sync_batchnorm(MODELS.build(config)).train()
    model.momentum_encoder.load_state_dict(model.online_encoder.state_dict())
    return model


def fill_set(model: torch.nn.Module, steps: int, batch: int = 8, rank: int = 0, ranks: int = 1):
    """Enqueue a rank's keys of some batches without moving any parameter."""
    mine = slice(rank * batch // ranks, (rank + 1) * batch // ranks)
    inner = unwrap(model)
    for step in range(steps):
        views, samples = images(batch, seed=step, first_id=step * batch)
        with torch.no_grad():
            inner.loss(_on_device_of(inner, views, mine), samples[mine])
        inner.after_optimizer_step(0.0)


def _on_device_of(model: torch.nn.Module, views: list[torch.Tensor], mine: slice):
    device = next(model.parameters()).device
    return [view[mine].to(device) for view in views]


def gradient_step(
    model: torch.nn.Module, rank: int = 0, ranks: int = 1, batch: int = 8
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of a rank's share of a batch whose images are in the set, and its gradients."""
    mine = slice(rank * batch // ranks, (rank + 1) * batch // ranks)
    views, samples = images(batch, seed=99, first_id=0)
    loss = model(_on_device_of(model, views, mine), samples[mine], mode='loss')['loss']
    loss.backward()
    parameters = unwrap(model).named_parameters()
    return loss.detach(), {n: p.grad.clone() for n, p in parameters if p.grad is not None}


def snclr_by_hand(
    model: NeighborMethod, views: list, samples: list, sets: list[tuple]
) -> torch.Tensor:
    """Eq. 2 over both orders in float64; ``sets`` are rows and ids of each image's candidates."""
    y = [model.neck(model.backbone(v))[0] for v in views]
    z = [F.normalize(model.head.predictor((x,))[0], dim=1).double() for x in y]
    y = [F.normalize(x, dim=1).double() for x in y]
    k = [F.normalize(model.momentum_encoder(v)[0], dim=1).double() for v in views]
    expected, t = 0, model.head.loss_module.temperature
    for a, b in ((0, 1), (1, 0)):
        picked = []
        for key, sample, (rows, ids) in zip(k[b], samples, sets):
            rows = rows[ids != image_id(sample)].double()
            picked.append(rows[(-(rows @ key)).argsort()[: model.neighbors]])
        normalizer = torch.exp(z[a] @ torch.cat([k[b], *picked]).T / t).sum(1)
        for n, rows in enumerate(picked):
            w = torch.softmax(rows @ y[a][n] / model.head.positiveness_temperature, 0)
            positives = torch.exp(z[a][n] @ k[b][n] / t) + w @ torch.exp(rows @ z[a][n] / t)
            expected -= torch.log(positives / normalizer[n]) / len(samples)
    return expected
