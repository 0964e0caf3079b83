"""A run that is resumed with an edited config goes by that config."""

import math
import shutil

import pytest
from interruptions import steps, train

COSINE = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
ADAM = {'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.01)}


@pytest.fixture(scope='module')
def begin(digits, tmp_path_factory):
    """Gives a folder two epochs of six steps, the rate falling to nothing over them."""
    begun = {}

    def begin(work_dir, **options):
        kind = str(options)
        if kind not in begun:
            begun[kind] = tmp_path_factory.mktemp('begun')
            go_on(digits, begun[kind], 2, resume=False, **options)
        shutil.copytree(begun[kind], work_dir, dirs_exist_ok=True)

    return begin


def go_on(digits, work_dir, epochs, resume=True, **options):
    defaults = {
        'train_cfg.max_epochs': epochs,
        'param_scheduler': [COSINE | dict(T_max=epochs, end=epochs)],
        'default_hooks.checkpoint': dict(interval=1),
    }
    return train(digits, work_dir, resume=resume, **(defaults | options))


def rates(work_dir):
    return [step['rate'] for step in steps(work_dir)]


def cosine(start, epochs):
    return [start * (1 + math.cos(math.pi * i / (6 * epochs))) / 2 for i in range(6 * epochs)]


def log(work_dir):
    return '\n'.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def test_more_epochs_stretch_the_schedule(digits, begin, tmp_path):
    begin(tmp_path)
    runner = go_on(digits, tmp_path, 4)
    start = rates(tmp_path)[0]
    assert rates(tmp_path)[:12] == pytest.approx(cosine(start, 2), rel=1e-6)
    assert rates(tmp_path)[12:] == pytest.approx(cosine(start, 4)[12:], rel=1e-6)
    assert runner.param_schedulers[0].T_max == 24
    assert 'param_scheduler.0.T_max was 12, is 24' in log(tmp_path)


def test_another_rate_and_weight_decay_hold_from_there_on(digits, begin, tmp_path):
    begin(tmp_path)
    lr, decay = 'optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'
    runner = go_on(digits, tmp_path, 4, **{lr: 0.5, decay: 0.125})
    assert rates(tmp_path)[12:] == pytest.approx(cosine(0.5, 4)[12:], rel=1e-6)
    assert {g['weight_decay'] for g in runner.optim_wrapper.optimizer.param_groups} >= {0.125}
    assert 'optimizer.lr was 0.06, is 0.5' in log(tmp_path)
    assert 'optimizer.weight_decay was' in log(tmp_path)


def test_other_settings_of_the_optimiser_hold_from_there_on(digits, begin, tmp_path):
    begin(tmp_path, **ADAM)
    other = {'optim_wrapper.optimizer.betas': (0.5, 0.75), 'optim_wrapper.optimizer.eps': 1e-4}
    runner = go_on(digits, tmp_path, 3, **ADAM, **other)
    group = runner.optim_wrapper.optimizer.param_groups[0]
    assert (group['betas'], group['eps']) == ((0.5, 0.75), 1e-4)


def test_a_schedule_of_another_kind_takes_the_place_of_the_old(digits, begin, tmp_path):
    begin(tmp_path)
    warmup = dict(type='LinearLR', start_factor=0.5, end=2, by_epoch=True)
    step = dict(type='MultiStepLR', milestones=[2], gamma=0.1, by_epoch=True)
    runner = go_on(digits, tmp_path, 3, param_scheduler=[warmup, step])
    assert rates(tmp_path)[12:] == pytest.approx([0.006] * 6)
    assert 'T_max' not in runner.param_schedulers[0].state_dict()
    assert 'the number of param_scheduler was 1, is 2' in log(tmp_path)


def test_an_unchanged_config_is_not_spoken_of(digits, begin, tmp_path):
    begin(tmp_path, **{'train_cfg.max_epochs': 1})
    go_on(digits, tmp_path, 2)
    assert 'The config is not that of' not in log(tmp_path)
    assert rates(tmp_path) == pytest.approx(cosine(0.06, 2), rel=1e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'optim_wrapper.optimizer.amsgrad': True}, r'amsgrad was False, the config says True'),
        (
            {'optim_wrapper.paramwise_cfg': dict(bias_decay_mult=0.0, norm_decay_mult=0.0)},
            r'optimiser has \d+ parameters in 1 groups.*leave optim_wrapper\.paramwise_cfg',
        ),
        (
            {'train_cfg.max_epochs': 4},
            r'param_scheduler ends with iteration 12.*training now with 24',
        ),
        ({'train_cfg.max_epochs': 1}, r'trained for 12 iterations, and train_cfg ends at 6'),
    ],
    ids=str,
)
def test_what_cannot_go_on_is_refused_with_both_values(digits, begin, tmp_path, options, message):
    plain = {**ADAM, 'optim_wrapper.paramwise_cfg': None}
    begin(tmp_path, **plain)
    with pytest.raises(ValueError, match=message):
        go_on(digits, tmp_path, 2, **(plain | options))
