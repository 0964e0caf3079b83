"""Health of a training: the measures, the log lines, and the warnings in words."""

import json
import math
import re

import cv2
import numpy as np
import pytest
from helpers import ROOT, config_of, free_port, run_tool, small_run
from mmengine.config import Config

from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks import HealthHook
from mmsnclr.evaluation import health

MEASURED = {
    'feature_std',
    'effective_rank',
    'random_similarity',
    'neighbor_similarity',
    'view_recall',
    'chance_recall',
    'self_in_set',
    'self_excluded',
    'queue_fill',
    'queue_age',
}
POSITIVENESS = {'positiveness_entropy', 'positiveness_evenness'}
LABELLED = {'neighbor_purity', 'chance_purity', 'knn_accuracy'}


# Views that a small network learns to recognise within seconds.
EASY = [
    dict(
        type='AugmentedViews',
        views=[
            dict(
                size=32, crop_scale=(0.8, 1.0), flip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0
            )
        ]
        * 2,
    ),
    dict(type='PackInputs'),
]


def run(digits, work_dir, method=None, **options):
    config = small_run(
        digits,
        work_dir,
        **{
            'train_dataloader.dataset.pipeline': EASY,
            'optim_wrapper.optimizer.lr': 0.03,
            'model.momentum_coefficient': 0.9,
            'default_hooks.checkpoint': None,
            'default_hooks.preemption': None,
        },
    )
    if method:
        config.model = config_of(method)
    config.merge_from_dict(options)
    runner = build_runner(config)
    runner.train()
    return runner


def lines_of(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def warnings_of(work_dir):
    (path,) = work_dir.glob('*/*.log')
    return [
        line for line in path.read_text().splitlines() if 'WARNING' in line and 'SyncBN' not in line
    ]


@pytest.mark.parametrize('method', ['snclr', 'nnclr', 'sce', 'sce, symmetric'])
@pytest.mark.parametrize('labels', [False, True], ids=['unlabelled', 'labelled'])
def test_every_line_tells_the_health_of_each_method(digits, tmp_path, method, labels):
    options = {'train_cfg.max_epochs': 2}
    if labels:
        options['train_dataloader.dataset.data_root'] = str(digits / 'labelled' / 'train')
        options['train_dataloader.dataset.with_label'] = True
    run(digits, tmp_path, method, **options)
    lines = lines_of(tmp_path)
    expected = MEASURED | (POSITIVENESS if method == 'snclr' else set())
    expected |= LABELLED if labels else set()
    all_health = MEASURED | POSITIVENESS | LABELLED
    for line in lines[1:]:
        assert all_health & line.keys() == expected
        assert all(math.isfinite(line[name]) for name in expected)
        shares = expected - {'effective_rank', 'queue_age', 'positiveness_entropy'}
        assert all(-1 <= line[name] <= 1 for name in shares)
        assert line['neighbor_similarity'] >= line['random_similarity']
        assert line['self_excluded'] <= line['self_in_set']
    assert lines[-1]['queue_age'] == 4  # 64 entries, 16 images a step


def test_an_own_feature_that_was_passed_over_is_counted(digits, tmp_path):
    options = {'model.queue.length': 96, 'train_cfg.max_epochs': 3, 'model.head.neighbors': 4}
    run(digits, tmp_path, **options)
    lines = lines_of(tmp_path)
    assert [line['self_in_set'] for line in lines[1:6]] == [0] * 5
    assert lines[6]['self_in_set'] == 1  # an epoch of 96 images lies in the set
    assert max(line['self_excluded'] for line in lines[6:]) > 0


@pytest.mark.parametrize('interval', [4, 50])
def test_health_is_measured_in_logged_steps_only(digits, tmp_path, monkeypatch, interval):
    measured = []
    measure = HealthHook.measure
    monkeypatch.setattr(
        HealthHook, 'measure', lambda self, model: measured.append(1) or measure(self, model)
    )
    options = {'default_hooks.logger.interval': interval, 'train_cfg.max_epochs': 2}
    run(digits, tmp_path, **options)
    lines = lines_of(tmp_path)
    assert len(measured) == len(lines) == 2  # interval 4: step 4 of 6; 50: the last of an epoch
    assert 'feature_std' in lines[0]


def test_a_healthy_run_is_not_warned_about(digits, tmp_path):
    options = {'custom_hooks.0.warmup_epochs': 3, 'train_cfg.max_epochs': 6}
    run(digits, tmp_path, **options)
    lines = lines_of(tmp_path)[-6:]
    assert lines[-1]['feature_std'] > 0.4
    assert np.mean([line['view_recall'] for line in lines]) > 0.3
    assert warnings_of(tmp_path) == []


def test_a_collapsed_training_is_told_once_with_the_settings_to_change(digits, tmp_path):
    options = {
        'optim_wrapper.optimizer.momentum': 0.0,
        'optim_wrapper.optimizer.weight_decay': 20.0,  # no weight survives it
        'model.momentum_coefficient': 0.0,
        'train_cfg.max_epochs': 3,
    }
    run(digits, tmp_path, **options)
    assert min(line['feature_std'] for line in lines_of(tmp_path)[1:]) < 0.01
    (line,) = [line for line in warnings_of(tmp_path) if 'collapsed' in line]
    assert 'optim_wrapper.optimizer.lr=0.01 (now 0.03)' in line
    assert 'optim_wrapper.optimizer.weight_decay=0.0001 (now 20)' in line
    assert 'model.momentum_coefficient=0.99 (now 0)' in line


def test_a_diverged_training_is_told_at_once(digits, tmp_path):
    options = {'optim_wrapper.optimizer.lr': 1e30, 'default_hooks.non_finite': None}
    run(digits, tmp_path, **options, **{'train_cfg.max_epochs': 1})
    (line,) = warnings_of(tmp_path)
    assert 'diverged' in line and 'optim_wrapper.clip_grad.max_norm=1' in line


@pytest.mark.parametrize('warmup', [0, 9])
def test_neighbors_that_are_noise_are_told_without_labels_once_used(digits, tmp_path, warmup):
    folder = tmp_path / 'noise'
    folder.mkdir()
    pixels = np.random.default_rng(0)
    for number in range(256):
        picture = pixels.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{number}.png'), picture)
    pipeline = [
        dict(type='AugmentedViews', views=[dict(size=32, crop_scale=(0.2, 0.4))] * 2),
        dict(type='PackInputs'),
    ]
    options = {
        'train_dataloader.dataset.data_root': str(folder),
        'train_dataloader.dataset.pipeline': pipeline,
        'train_dataloader.batch_size': 32,
        'model.queue.length': 512,
        'custom_hooks.0.warmup_epochs': warmup,
        'train_cfg.max_epochs': 2,
    }
    run(digits, tmp_path / 'run', **options)
    warnings = [line for line in warnings_of(tmp_path / 'run') if 'are noise' in line]
    assert bool(warnings) == (warmup == 0)
    if warnings:
        assert 'own other view' in warnings[0]
        assert 'custom_hooks.0.warmup_epochs=1 (now 0)' in warnings[0]
        assert 'model.head.neighbors=2 (now 4)' in warnings[0]


def test_neighbors_that_are_noise_are_told_by_labels(digits, tmp_path):
    """Labels that have nothing to do with the pictures; so many that none agree by luck."""
    folder = tmp_path / 'images'
    for number in range(96):
        target = folder / str(number % 48) / f'{number}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((digits / 'unlabelled' / f'{number:05d}.png').read_bytes())
    options = {
        'train_dataloader.dataset.data_root': str(folder),
        'train_dataloader.dataset.with_label': True,
    }
    run(digits, tmp_path / 'run', **options)
    warnings = [
        line for line in warnings_of(tmp_path / 'run') if 'The neighbours are noise' in line
    ]
    assert warnings and 'are of the class of their query' in warnings[0]


@pytest.mark.parametrize(
    ('model', 'advised', 'not_advised'),
    [
        (
            dict(type='SCE', head=dict(contrast=0.5)),
            r'model\.head\.contrast=0\.75 \(now 0\.5\)',
            'neighbors',
        ),
        (dict(type='NNCLR', head=dict(neighbors=1)), r'warmup_epochs=4 \(now 2\)', 'neighbors='),
        (dict(type='SNCLR', head=dict(neighbors=30)), r'neighbors=10 \(now 30\)', 'contrast'),
    ],
    ids=['sce', 'nnclr', 'snclr'],
)
def test_advice_against_noise_suits_the_method(model, advised, not_advised):
    cfg = Config(
        dict(
            model=model,
            optim_wrapper=dict(optimizer=dict(lr=0.1)),
            train_cfg=dict(max_epochs=10),
            custom_hooks=[dict(type='NeighborQueueHook', warmup_epochs=2)],
        )
    )
    values = dict(feature_std=0.8, effective_rank=9.0, view_recall=0.0, chance_recall=0.01)
    (said,) = health.findings(values, cfg).values()
    assert re.search(advised, said) and not_advised not in said


def test_a_condition_is_told_again_only_after_it_was_over():
    hook = HealthHook(patience=2)
    said = []

    class Runner:
        class logger:
            warning = said.append

    for bad in (1, 1, 1, 0, 1, 0, 0, 1, 1):
        hook._tell(Runner, dict(noise='noise!') if bad else {})
    assert said == ['noise!', 'Neighbours are better than random images again.', 'noise!']


def test_the_hook_names_what_a_model_without_a_set_needs(digits, tmp_path):
    config = Config.fromfile(ROOT / 'configs/demo/linear_digits.py')
    assert config.default_hooks.health is None
    config.model.backbone.init_cfg = None
    config.default_hooks.health = dict(type='HealthHook')
    config.work_dir = str(tmp_path)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        config[loader].dataset.data_root = str(digits / 'labelled')
        config[loader].update(num_workers=0, persistent_workers=False)
    with pytest.raises(ValueError, match=r'default_hooks\.health=None'):
        build_runner(config).train()


@pytest.mark.slow
@pytest.mark.parametrize('sync', [True, False])
def test_two_processes_log_health_and_end(digits, tmp_path, sync):
    config = small_run(digits, tmp_path, **{'model.queue.sync': sync, 'train_cfg.max_epochs': 1})
    config.train_dataloader.batch_size = 8
    config.default_hooks.checkpoint = None
    path = tmp_path / 'config.py'
    config.dump(path)
    result = run_tool(
        'tools/dist_train.sh', str(path), '2', '--work-dir', str(tmp_path), PORT=str(free_port())
    )
    assert result.returncode == 0, result.stderr[-2000:]
    last = lines_of(tmp_path)[-1]
    assert last.keys() >= MEASURED
    assert last['queue_age'] == (4 if sync else 5)  # 64 entries by 16 keys a step, or 40 by 8


def test_tensorboard_has_the_values(digits, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(digits, tmp_path, **{'train_cfg.max_epochs': 1})
    (events,) = tmp_path.glob('*/vis_data/events.out.tfevents.*')
    board = EventAccumulator(str(events)).Reload()
    lines = lines_of(tmp_path)
    for name in MEASURED | POSITIVENESS | {'loss'}:
        stored = {event.step: event.value for event in board.Scalars(name)}
        assert stored == {
            line['step']: pytest.approx(line[name], rel=1e-5) for line in lines if name in line
        }
