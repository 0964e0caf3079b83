"""Parameters of equal settings are one group, and checkpoints do not depend on it."""

import shutil

import pytest
import torch
from helpers import small_run
from interruptions import steps, train
from mmengine.optim import build_optim_wrapper as build_unmerged
from mmpretrain.registry import MODELS
from paper_recipes import load

from mmsnclr.checkpoints import load_checkpoint
from mmsnclr.engine import runner as runner_module
from mmsnclr.engine.param_groups import build_optim_wrapper

PARAMWISE = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys=dict(predictor=dict()))
OPTIMIZERS = {
    'TIMMLars': dict(type='TIMMLars', lr=0.3, momentum=0.9, weight_decay=1e-4),
    'AdamW': dict(type='AdamW', lr=1e-3, weight_decay=0.05),
}


def options(kind):
    return {
        'optim_wrapper.optimizer': dict(OPTIMIZERS[kind], _delete_=True),
        'optim_wrapper.paramwise_cfg': PARAMWISE,
        'default_hooks.checkpoint': dict(interval=1, max_keep_ckpts=9),
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', begin=1, end=4, T_max=3, convert_to_iter_based=True),
            dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', end=4, T_max=4),
        ],
    }


@pytest.fixture(scope='module', params=['TIMMLars', pytest.param('AdamW', marks=pytest.mark.slow)])
def before(request, digits, tmp_path_factory):
    """A run of three epochs as it was before groups were merged."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, 'merge_groups', lambda wrapper: wrapper)
        train(digits, folder, **options(request.param))
    return request.param, folder


def continued(digits, before, folder, **changes):
    """The runner of the third epoch, with merged groups."""
    kind, run = before
    shutil.copy(run / 'epoch_2.pth', folder)
    return train(digits, folder, resume=True, **(options(kind) | changes))


def test_the_paper_recipe_has_two_groups():
    cfg = load('snclr_r50_800e.py')
    model = MODELS.build(cfg.model)
    wrappers = [build(model, cfg.optim_wrapper) for build in (build_unmerged, build_optim_wrapper)]
    groups, merged = (wrapper.optimizer.param_groups for wrapper in wrappers)
    assert (len(groups), len(merged)) == (171, 2)
    decays = [
        {id(p): g['weight_decay'] for g in gs for p in g['params']} for gs in (groups, merged)
    ]
    assert decays[0] == decays[1]


def test_a_run_of_before_goes_on_to_the_bit(digits, before, tmp_path):
    runner = continued(digits, before, tmp_path)
    assert len(runner.optim_wrapper.optimizer.param_groups) == 2
    assert steps(tmp_path) == steps(before[1])[12:]
    last, same = (load_checkpoint(str(f / 'epoch_3.pth')) for f in (before[1], tmp_path))
    assert len(last['optimizer']['param_groups']) > 2
    torch.testing.assert_close(same['state_dict'], last['state_dict'], rtol=0, atol=0)
    states = same['optimizer']['state'], last['optimizer']['state']
    torch.testing.assert_close(*states, rtol=0, atol=0)
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'The config is not that of' not in log


def test_what_was_saved_with_merged_groups_goes_on_to_the_bit(digits, before, tmp_path):
    whole, parts = (tmp_path / name for name in ('whole', 'parts'))
    for folder, ends in ((whole, [4]), (parts, [3, 4])):
        folder.mkdir()
        for epochs in ends:
            continued(digits, before, folder, **{'train_cfg.max_epochs': epochs})
    ends = [load_checkpoint(str(folder / 'epoch_4.pth')) for folder in (whole, parts)]
    assert len(ends[0]['optimizer']['param_groups']) == 2
    torch.testing.assert_close(*(end['state_dict'] for end in ends), rtol=0, atol=0)


def test_settings_that_make_other_groups_hold_from_there_on(digits, before, tmp_path):
    decay = {'optim_wrapper.optimizer.weight_decay': 0.0}
    runner = continued(digits, before, tmp_path, **decay)
    (group,) = runner.optim_wrapper.optimizer.param_groups
    assert group['weight_decay'] == 0.0
    rates = [step['rate'] for step in steps(tmp_path)]
    assert rates == pytest.approx([step['rate'] for step in steps(before[1])[12:]])
    back = {'train_cfg.max_epochs': 4}
    runner = train(digits, tmp_path, resume=True, **(options(before[0]) | back))
    assert len(runner.optim_wrapper.optimizer.param_groups) == 2


def test_several_optimisers_are_left_as_they_are(digits, tmp_path):
    runner = runner_module.ResumableRunner.from_cfg(small_run(digits, tmp_path))
    wrapper = build_unmerged(
        runner.model, dict(optimizer=OPTIMIZERS['AdamW'], paramwise_cfg=PARAMWISE)
    )
    count = len(wrapper.optimizer.param_groups)
    both = runner.build_optim_wrapper(dict(first=wrapper))
    assert len(both['first'].optimizer.param_groups) == count > 2
