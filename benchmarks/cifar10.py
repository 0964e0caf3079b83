"""SNCLR beside its relatives on CIFAR-10: equal data, network, views, steps and seeds.

    python benchmarks/cifar10.py DATA

DATA has `train/CLASS/*` and `test/CLASS/*`. All methods go on from one warm-up without neighbours
for each seed, the paper's m, so that they differ only in what they make of neighbours. OUT keeps
what was measured; a second call goes on where the first stopped. One thread for each process:
seeds can run side by side.
"""

import argparse
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch
from compare import print_table
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from probes import read
from torch.nn import functional as F

from mmsnclr.datasets.image_id import image_id
from mmsnclr.datasets.views import VIEW_KINDS
from mmsnclr.engine import build_runner
from mmsnclr.engine.run import load_run
from mmsnclr.models import neighbor_scores
from mmsnclr.models.snclr_loss import Candidates

CONFIG = Path(__file__).parents[1] / 'configs' / 'demo' / 'snclr_cifar10.py'
STEADY = ['airplane', 'automobile', 'frog', 'horse', 'ship']
MEASURES = ('knn', 'linear', 'purity', 'weighed purity', 'entropy')
NEVER, HALF = 10**6, -1  # of the warm-up
JOIN = 'custom_hooks.0.warmup_epochs'
FORM = 'model.head.loss.form'
SHARP = 'model.head.positiveness_temperature'
SAME_CLASS = dict(type='FilteredQueue', same_class=True)
SCE_HEAD = dict(
    _delete_=True,
    type='SCEHead',
    temperature=0.1,
    target_temperature=0.05,
    contrast=0.5,
    predictor=dict(type='SNCLRNeck', in_channels=128, hid_channels=512, out_channels=128),
)
# What each method changes after the warm-up. MoCo v3's loss is Eq. 2 without neighbours.
METHODS = {
    'MoCo v3': {JOIN: NEVER},
    'SNCLR, Eq. 2': {},
    'SNCLR, released form': {FORM: 'sum_log'},
    'SNCLR, uniform weights': {'model.head.positiveness': 'uniform'},
    'NNCLR': {'model.type': 'NNCLR', 'model.head.neighbors': 1},
    'SCE': {'model.type': 'SCE', 'model.symmetric': True, 'model.head': SCE_HEAD},
    'Eq. 2, neighbours of the true class': {'model.queue': SAME_CLASS},
    'released form, neighbours of the true class': {'model.queue': SAME_CLASS, FORM: 'sum_log'},
}
# One setting of Eq. 2 at a time.
STUDIES = {
    'K = 5': {'model.head.neighbors': 5},
    't = 0.2': {'model.head.loss.temperature': 0.2},
    'set of 1,024': {'model.queue': dict(type='FilteredQueue', recent=1024)},
    'no self-exclusion': {'train_dataloader.dataset.pipeline.1.meta_keys': []},
    'half the warm-up': {JOIN: HALF},
    'positiveness temperature 0.2': {SHARP: 0.2},
    'positiveness temperature 0.1': {SHARP: 0.1},
    'positiveness temperature 0.05': {SHARP: 0.05},
}


class Schedule(NamedTuple):
    """How long is trained, and on what views.

    Attributes:
        warmup: Epochs without neighbours, at a constant learning rate.
        epochs: All epochs; the learning rate falls to 0 from the warm-up on.
        batch: Images of a step.
        interval: Epochs between measurements.
        views: A key of ``VIEW_KINDS``.
    """

    warmup: int
    epochs: int
    batch: int
    interval: int
    views: str


def choose_classes(data: Path, out: Path, classes: list[str], grey: bool) -> Path:
    """Link the folders of some classes into a data set of their own; grey ones are written."""
    for split in ('train', 'test'):
        (out / split).mkdir(parents=True, exist_ok=True)
        for name in classes:
            source = data / split / name
            if not source.is_dir():
                raise SystemExit(f'no folder {source}: DATA has train/CLASS and test/CLASS')
            target = out / split / name
            if grey:
                target.mkdir(exist_ok=True)
                for path in source.iterdir():
                    copy = target / f'{path.stem}.png'
                    if not copy.exists():
                        Image.open(path).convert('L').save(copy)
            else:
                target.unlink(missing_ok=True)
                target.symlink_to(source.resolve())
    return out


def train(
    data: Path, out: Path, seed: int, schedule: Schedule, options: dict, start: Path | None = None
) -> None:
    """Train the warm-up, or what follows on it, unless it has been done."""
    probes = out / 'probes.jsonl'
    stop = schedule.warmup if start is None else schedule.epochs
    if probes.exists() and read(probes)[-1]['epoch'] == stop:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(data / 'train'),
            'train_dataloader.batch_size': schedule.batch,
            'train_cfg.max_epochs': stop,
            'param_scheduler.begin': schedule.warmup,
            'param_scheduler.end': schedule.epochs,
            'param_scheduler.T_max': schedule.epochs - schedule.warmup,
            JOIN: schedule.warmup,
            'default_hooks.checkpoint': dict(interval=schedule.warmup // 2, max_keep_ckpts=-1),
            'randomness.seed': seed,
            **options,
        }
    )
    steps = cfg.train_dataloader.dataset.pipeline
    steps[0].views = [dict(view, **VIEW_KINDS[schedule.views]) for view in steps[0].views]
    cfg.custom_hooks.append(
        dict(type='ProbeHook', data=str(data), path=str(probes), interval=schedule.interval)
    )
    cfg.log_level = 'WARNING'
    cfg.work_dir = str(out)
    cfg.experiment_name = f'{out.parent.name}_{out.name}'
    cfg.resume, cfg.load_from = start is not None, start and str(start)
    build_runner(cfg).train()


def spread(values: list[float], sign: str = '') -> str:
    """Mean, and the standard deviation where there is one."""
    text = f'{mean(values):{sign}.1f}'
    return text + (f' +- {stdev(values):.1f}' if len(values) > 1 else '')


def summarize(out: Path, names: list[str], schedule: Schedule) -> None:
    """Print what every run reached in its last epochs, over all seeds that have finished it."""
    rows = []
    for name in ['before training', 'warm-up', *names]:
        folder = 'warmup' if name in ('before training', 'warm-up') else name
        stop = schedule.warmup if folder == 'warmup' else schedule.epochs
        runs = {path.parents[1].name: read(path) for path in out.glob(f'seed*/{folder}/*.jsonl')}
        runs = {seed: run for seed, run in runs.items() if run[-1]['epoch'] == stop}
        last = {seed: run[0 if name == 'before training' else -1] for seed, run in runs.items()}
        row = [name, len(runs)]
        for key in MEASURES:
            values = [v[key] for v in last.values() if key in v]
            row.append(spread(values) if values else '')
        if folder != 'warmup':
            moco = {seed: read(out / seed / 'MoCo v3' / 'probes.jsonl') for seed in runs}
            for key in ('knn', 'linear'):
                gain = [last[seed][key] - moco[seed][-1][key] for seed in runs]
                row.append(spread(gain, '+'))
            taken, plain = (
                sum(v['seconds'] for seed in runs for v in of[seed] if v['epoch'] > schedule.warmup)
                for of in (runs, moco)
            )
            row.append(f'{taken / plain:.2f}')
        rows.append(row + [''] * (len(MEASURES) + 5 - len(row)))
    measures = ['k-NN', *MEASURES[1:]]
    gains = ['k-NN - MoCo v3', 'linear - MoCo v3']
    print_table(['method', 'seeds', *measures, *gains, 'time / MoCo v3'], rows)


@torch.no_grad()
def neighbor_share(checkpoint: Path) -> float:
    """How much of Eq. 2's pull towards positives goes to neighbours, in percent.

    The gradient of ``log(sum_i w_i e_i)`` is the mean of the positives under
    ``w_i e_i / sum_i w_i e_i``; the neighbours' share is what is left of the
    own key's. In the released form it is a half, whatever the features are.
    """
    cfg, model = load_run(checkpoint)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    batch = model.data_preprocessor(batch, False)
    first, second = batch['inputs']
    keys = F.normalize(model.momentum_encoder(second)[0], dim=1)
    ids = torch.tensor([image_id(sample) for sample in batch['data_samples']])
    found = model.queue.search(keys, ids, model.neighbors)
    candidates = Candidates(model.queue.features, None, found.index, found.valid)
    projection = model.neck(model.backbone(first))[0]
    prediction = model.head.predict(projection)
    own = (prediction * keys).sum(dim=1, keepdim=True)
    temperature = model.head.loss_module.temperature
    logits = torch.cat([own, neighbor_scores(prediction, candidates)], dim=1) / temperature
    logits[:, 1:] += model.log_weights(projection, model.queue.features, found)
    return 100 * float(1 - logits.softmax(dim=1)[:, 0].mean())


def plot(out: Path, names: list[str], path: Path) -> None:
    """Draw accuracy and purity from the end of the warm-up on, averaged over seeds."""
    figure = Figure((9, 3.6), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, key, title in zip(axes, ('knn', 'purity'), ('k-NN top-1', 'neighbour purity')):
        for name in ['warmup', *names]:
            runs = [read(file) for file in sorted(out.glob(f'seed*/{name}/*.jsonl'))]
            steps = list(zip(*runs))[-3 if name == 'warmup' else 0 :]
            # Before training there is no purity.
            steps = [step for step in steps if all(key in values for values in step)]
            values = [mean(v[key] for v in step) for step in steps]
            label = 'warm-up, no neighbours' if name == 'warmup' else name
            axis.plot(
                [step[0]['epoch'] for step in steps],
                values,
                label=label,
                color='gray' if name == 'warmup' else None,
                linestyle=':' if 'true class' in name else '-',
            )
        axis.set(xlabel='epoch', ylabel=f'{title}, %')
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center', fontsize=8)
    figure.savefig(path, dpi=110)
    print(f'Plot: {path}')


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('--out', type=Path, help='default: work_dirs/cifar10_VIEWS[_grey]')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--classes', nargs='+', default=STEADY)
    parser.add_argument('--warmup', type=int, default=20, help='epochs without neighbours')
    parser.add_argument('--epochs', type=int, default=30, help='epochs, the warm-up included')
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--interval', type=int, default=1, help='epochs between measurements')
    parser.add_argument('--views', choices=VIEW_KINDS, default='strong')
    parser.add_argument('--grey', action='store_true', help='take the colours out of all images')
    parser.add_argument('--studies', action='store_true', help='also one setting at a time')
    parser.add_argument(
        '--runs', nargs='+', choices=METHODS | STUDIES, metavar='NAME', help='these and MoCo v3'
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out or Path('work_dirs') / f'cifar10_{args.views}{"_grey" if args.grey else ""}'
    data = choose_classes(args.data, out / 'data', args.classes, args.grey)
    schedule = Schedule(args.warmup, args.epochs, args.batch, args.interval, args.views)
    names = ['MoCo v3', *args.runs] if args.runs else [*METHODS, *(STUDIES if args.studies else ())]
    runs = {name: (METHODS | STUDIES)[name] for name in names}
    for seed in args.seeds:
        warmup = out / f'seed{seed}' / 'warmup'
        train(data, warmup, seed, schedule, {})
        for name, options in runs.items():
            first = schedule.warmup
            if options.get(JOIN) == HALF:
                first //= 2
                options = options | {JOIN: first}
            start = warmup / f'epoch_{first}.pth'
            train(data, warmup.with_name(name), seed, schedule, options, start)
        summarize(out, list(runs), schedule)
    last = sorted(out.glob(f'seed*/SNCLR, Eq. 2/epoch_{schedule.epochs}.pth'))
    if last:
        shares = spread([neighbor_share(path) for path in last])
        print(f"In Eq. 2 the neighbours get {shares} % of the positives' pull")
    plot(out, [name for name in METHODS if name in runs], out / 'cifar10.png')


if __name__ == '__main__':
    main()
