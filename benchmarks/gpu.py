"""Where a training step's time goes on a CUDA device, and its ratio to mmpretrain's MoCo v3.

A rank of 32, whose peers are synthetic (their messages cost nothing), trains by the recipe: its own
Runner, hooks, optimiser and loader, on the two photographs that come with scikit-learn.

python benchmarks/gpu.py [--backbone r50|vit-s] [--precision bf16 ...] [--batch 128] [--steps 8]
"""

import argparse
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from compare import print_table
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from pipeline import photographs
from torch import nn

from mmsnclr.engine import build_runner
from mmsnclr.engine.cost import synthetic_peers
from mmsnclr.models import NeighborMethod
from mmsnclr.models.dist import unwrap
from mmsnclr.models.sync_batch_norm import SyncBatchNorm, replace_sync_batch_norm

ROOT = Path(__file__).resolve().parents[1]
RECIPES = dict(r50='snclr_r50_800e.py', **{'vit-s': 'snclr_vit-s_300e.py'})
PRECISIONS = ('fp32', 'tf32', 'fp16', 'bf16')
LAYOUTS = ('contiguous', 'channels-last')
NORMS = ('BN', 'SyncBN')
RANKS = 32
STEPS_OF_800_EPOCHS = 800 * 313  # ImageNet in batches of 32 x 128
# What is aimed at, in the device's time.
TARGETS = 'search and loss < 5 % of a mixed-precision step, SNCLR <= 1.03 MoCo v3, optimiser < 3 ms'
PHASES = ('copying', 'encoders', 'search and loss', 'backward', 'optimiser', 'momentum, enqueue')


class Stopwatch:
    """Times calls between two events of the device, or by the clock where there is none."""

    def __init__(self) -> None:
        self.on = False
        self._spans: dict[str, list] = {}

    def watch(self, owner: object, method: str, phase: str) -> None:
        """Time each call of a method of an object as a part of a phase."""
        call = getattr(owner, method)

        def timed(*args, **kwargs):
            if not self.on:
                return call(*args, **kwargs)
            start = mark()
            result = call(*args, **kwargs)
            self._spans.setdefault(phase, []).append((start, mark()))
            return result

        setattr(owner, method, timed)

    def milliseconds(self, phase: str) -> float:
        """Sum of what was timed; the device has to be through."""
        return sum(between(*span) for span in self._spans.get(phase, ()))


def mark() -> object:
    """A moment of the device."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: object, end: object) -> float:
    """Milliseconds between two moments."""
    if isinstance(start, float):
        return 1000 * (end - start)
    return start.elapsed_time(end)


class Waits:
    """Notes where torch makes the host wait for the device, by torch's own warnings."""

    def __enter__(self) -> 'Waits':
        """Begin to note."""
        self._caught = warnings.catch_warnings(record=True)
        self._found = self._caught.__enter__()
        warnings.simplefilter('always')
        _set_sync_debug_mode('warn')
        return self

    def __exit__(self, *error: object) -> None:
        """Tell files and lines as :attr:`where`."""
        _set_sync_debug_mode('default')
        self._caught.__exit__(*error)
        found = [w for w in self._found if 'called a synchronizing CUDA' in str(w.message)]
        self.where = [f'{w.filename}:{w.lineno}' for w in found]


def _set_sync_debug_mode(mode: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)


class Measure(Hook):
    """Times the steps after some that warm up, then counts kernels and waits of one more."""

    priority = 'HIGHEST'

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps, self.loading = warmup, steps, []
        self.stopwatch, self.profile, self.memory = Stopwatch(), None, 0

    def before_train_epoch(self, runner) -> None:
        """Watch the parts of a step, as hooks have left them."""
        watch, model = self.stopwatch.watch, unwrap(runner.model)
        watch(model.data_preprocessor, 'forward', 'copying')
        for network in (model.backbone, model.neck, model.momentum_encoder):
            watch(network, 'forward', 'encoders')
        for owner, method in (
            (model, 'compare') if isinstance(model, NeighborMethod) else (model.head, 'loss'),
        ):
            watch(owner, method, 'search and loss')
        watch(runner.optim_wrapper, 'backward', 'backward')
        watch(runner.optim_wrapper.optimizer, 'step', 'optimiser')
        if isinstance(model, NeighborMethod):
            watch(model, 'after_optimizer_step', 'momentum, enqueue')
        self._ended = time.perf_counter()

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        """Begin to measure, or to profile."""
        step = runner.iter - self.warmup
        if step == 0:
            wait()
            self.begun = self._ended = time.perf_counter()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.stopwatch.on = True
        elif step == self.steps:  # not the last, which is logged
            wait()
            self.stopwatch.on = False
            self.total = 1000 * (time.perf_counter() - self.begun) / self.steps
            if torch.cuda.is_available():  # the log's own look begins anew
                self.memory = torch.cuda.max_memory_allocated()
            self.profile = torch.profiler.profile()
            self.profile.__enter__()
            self.waits = Waits()
            self.waits.__enter__()
        if 0 <= step < self.steps:
            self.loading.append(1000 * (time.perf_counter() - self._ended))


class End(Hook):
    """Notes when a step is over, after all other hooks."""

    priority = 'LOWEST'

    def __init__(self, measure: Measure) -> None:
        self.measure = measure

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        """Note the time, or end the profile."""
        self.measure._ended = time.perf_counter()
        if runner.iter == self.measure.warmup + self.measure.steps:
            self.measure.waits.__exit__(None, None, None)
            wait()
            self.measure.profile.__exit__(None, None, None)


def wait() -> None:
    """Wait until the device is through."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def recipe(
    backbone: str, method: str, batch: int, steps: int, workers: int, folder: Path
) -> Config:
    """The recipe's config, for some steps on photographs."""
    config = Config.fromfile(ROOT / 'configs' / RECIPES[backbone])
    if method == 'MoCo v3':
        model = config.model
        head = dict(type='MoCoV3Head', predictor=model.head.predictor, temperature=0.2)
        head['loss'] = dict(type='CrossEntropyLoss')
        config.model = dict(type='MoCoV3', backbone=model.backbone, neck=model.neck, head=head)
        config.model.data_preprocessor = dict(
            model.data_preprocessor, type='SelfSupDataPreprocessor'
        )
        config.custom_hooks = [hook for hook in config.custom_hooks if hook.type == 'ViewSeedHook']
        config.default_hooks.health = None
    else:
        config.custom_hooks[0].warmup_epochs = 0
    paths = photographs(None, folder)
    listed = folder / 'images.txt'
    listed.write_text('\n'.join(paths))
    config.train_dataloader = dict(
        batch_size=batch,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
        dataset=dict(
            type='RepeatDataset',
            times=-(-batch * steps // len(paths)),
            dataset=dict(
                type='ImageList',
                ann_file=str(listed),
                pipeline=config.train_dataloader.dataset.pipeline,
            ),
        ),
    )
    config.train_cfg.max_epochs = 1
    config.param_scheduler = None
    config.default_hooks.checkpoint = None
    config.default_hooks.logger = dict(type='LoggerHook', interval=1000)
    config.work_dir, config.log_level = str(folder / 'run'), 'ERROR'
    return config


def measure(
    backbone: str,
    method: str = 'SNCLR',
    precision: str = 'bf16',
    layout: str = 'channels-last',
    norm: str = 'BN',
    batch: int = 128,
    steps: int = 8,
    workers: int = 8,
    change: Callable[[Config], None] = lambda config: None,
) -> dict[str, float]:
    """Train for some steps and tell where their time went.

    Args:
        backbone: ``'r50'`` or ``'vit-s'``.
        method: ``'SNCLR'`` or ``'MoCo v3'``.
        precision: One of :data:`PRECISIONS`; ``'fp32'`` has no TF32 anywhere.
        layout: One of :data:`LAYOUTS`.
        norm: One of :data:`NORMS`, of the whole model.
        batch: Images of a step.
        steps: How many are measured.
        workers: Processes that load.
        change: Last changes to the config.

    Returns:
        Milliseconds of each phase and of a step, kernels, waits, peak memory in bytes.
    """
    warmup = 4
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == 'tf32'
    with tempfile.TemporaryDirectory() as folder:
        config = recipe(backbone, method, batch, warmup + steps + 2, workers, Path(folder))
        config.optim_wrapper.type = 'MixedPrecisionOptimWrapper'
        config.optim_wrapper.precision = 'fp32' if precision == 'tf32' else precision
        if method == 'SNCLR':
            config.model.channels_last = layout == 'channels-last'
        change(config)
        _set_norm(config.model)
        runner, hook = build_runner(config), Measure(warmup, steps)
        if norm == 'SyncBN':
            use_sync_bn(runner.model)
        if method != 'SNCLR' and layout == 'channels-last':
            runner.model.to(memory_format=torch.channels_last)
        if method == 'SNCLR':
            queue = runner.model.queue
            features = torch.randn(queue.length, queue.dim, device=queue.features.device)
            queue.enqueue(features, torch.arange(queue.length, device=features.device))
        runner.register_hook(hook)
        runner.register_hook(End(hook))
        with synthetic_peers(RANKS) if method == 'SNCLR' else nullcontext():
            runner.train()
    return _figures(hook, steps)


def use_sync_bn(model: nn.Module) -> None:
    """Put SyncBN into a model, which a single process would train with BN."""
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    replace_sync_batch_norm(model)
    if not any(type(module) is SyncBatchNorm for module in model.modules()):
        raise RuntimeError('the model has no SyncBN')


def _set_norm(model: dict) -> None:
    """Have every layer with statistics of the batch be BN."""
    if model.backbone.type == 'ResNet':
        model.backbone.norm_cfg = dict(type='BN')
    for projector in (model.neck, model.head.predictor):
        projector.norm_cfg = dict(type='BN1d')


def _figures(hook: Measure, steps: int) -> dict[str, float]:
    figures = {'loading': median(hook.loading)}
    figures |= {phase: hook.stopwatch.milliseconds(phase) / steps for phase in PHASES}
    figures['step'] = hook.total
    figures['hooks and the rest'] = hook.total - sum(
        value for name, value in figures.items() if name != 'step'
    )
    events = hook.profile.events()
    on_device = torch.autograd.DeviceType.CUDA
    figures['kernels'] = sum(event.device_type == on_device for event in events)
    figures['waits'] = len(hook.waits.where)
    figures['peak memory'] = hook.memory
    return figures


def row(settings: Iterable[str], figures: dict[str, float]) -> list[str]:
    """A line of the table."""
    phases = ['loading', *PHASES, 'hooks and the rest', 'step']
    hours = figures['step'] * STEPS_OF_800_EPOCHS / 3.6e6
    return [
        *settings,
        *(f'{figures[phase]:.1f}' for phase in phases),
        f'{figures["search and loss"] / figures["step"]:.1%}',
        f'{figures["kernels"]:,}',
        f'{figures["waits"]}',
        f'{figures["peak memory"] / 1e9:.1f}',
        f'{hours:.0f}',
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--backbone', nargs='+', choices=RECIPES, default=list(RECIPES))
    parser.add_argument('--precision', nargs='+', choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument('--layout', nargs='+', choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument('--norm', nargs='+', choices=NORMS, default=list(NORMS))
    parser.add_argument('--batch', type=int, default=128, help='images of a step')
    parser.add_argument('--steps', type=int, default=8, help='how many are measured')
    parser.add_argument('--workers', type=int, default=8, help='processes that load')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit('no CUDA device: nothing here is to be measured on a CPU')
    init_default_scope('mmpretrain')
    print(f'{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {args.batch}\n')
    sizes = dict(batch=args.batch, steps=args.steps, workers=args.workers)
    header = ['backbone', 'method', 'precision', 'layout', 'norm', 'loading', *PHASES]
    header += ['hooks and the rest', 'step', 'search and loss', 'kernels', 'waits', 'GB', 'hours']
    rows = []
    for backbone, precision, layout, norm in itertools.product(
        args.backbone, args.precision, args.layout, args.norm
    ):
        if backbone != 'r50' and layout != args.layout[-1]:
            continue  # it has one convolution
        methods = ('SNCLR', 'MoCo v3') if norm == 'BN' else ('SNCLR',)
        found = {
            method: measure(backbone, method, precision, layout, norm, **sizes)
            for method in methods
        }
        for method, figures in found.items():
            rows.append(row((backbone, method, precision, layout, norm), figures))
            print('  '.join(rows[-1]), flush=True)
        if len(found) > 1:
            print(f'  ratio {found["SNCLR"]["step"] / found["MoCo v3"]["step"]:.3f}', flush=True)
    print()
    print_table(header, rows)
    print(f'\nMilliseconds of a step; hours of 800 epochs on {RANKS} such ranks. Aims: {TARGETS}.')


if __name__ == '__main__':
    main()
