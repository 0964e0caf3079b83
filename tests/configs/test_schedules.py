"""Every config trains as long, at such rates and with such decay as its recipe says."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from paper_recipes import CONFIGS, RECIPES, load
from torch.nn import LayerNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from mmsnclr.engine import build_runner


@MODELS.register_module()
class OneWeight(BaseModel):
    def __init__(self, **settings):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self):
        """Never called: training does not begin."""


@DATASETS.register_module()
class Numbers(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index


class StopTraining(Exception):
    pass


class Schedule(Hook):
    """Steps the runner's schedulers through the whole training, which then does not begin."""

    def before_train(self, runner):
        self.steps = len(runner.train_dataloader)
        (group,) = runner.optim_wrapper.param_groups
        self.rates = []
        for step in range(1, runner.max_iters + 1):
            self.rates.append(group['lr'])
            for scheduler in runner.param_schedulers:
                if not scheduler.by_epoch or step % self.steps == 0:
                    scheduler.step()
        self.rates.append(group['lr'])
        raise StopTraining


@pytest.fixture(scope='module')
def schedules():
    """What was stepped through, by the settings: many configs have the same."""
    return {}


@pytest.fixture(params=CONFIGS)
def stepped(request, schedules, tmp_path):
    """A config's recipe, and its learning rates over a data set of the real size."""
    recipe, cfg = RECIPES[request.param], load(request.param)
    per_gpu = cfg.train_dataloader.batch_size
    assert per_gpu * recipe['gpus'] == recipe['batch'] == cfg.auto_scale_lr.base_batch_size
    cfg.model = dict(type='mmengine.OneWeight')
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=cfg.optim_wrapper.optimizer.lr))
    cfg.train_dataloader = dict(
        batch_size=recipe['batch'],
        num_workers=0,
        drop_last=cfg.train_dataloader.get('drop_last', False),
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='mmengine.Numbers', count=recipe['images']),
    )
    for name in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'{name}_{part}'] = None
    cfg.default_hooks, cfg.custom_hooks, cfg.visualizer = {}, [], None
    settings = cfg.pretty_text
    if settings not in schedules:
        cfg.work_dir, cfg.log_level = str(tmp_path), 'ERROR'
        runner, schedules[settings] = build_runner(cfg), Schedule()
        runner.register_hook(schedules[settings])
        with pytest.raises(StopTraining):
            runner.train()
    schedule = schedules[settings]
    steps = recipe.get('steps') or recipe['epochs'] * schedule.steps
    assert len(schedule.rates) - 1 == steps
    whole, rest = divmod(recipe['images'], recipe['batch'])
    assert schedule.steps == whole + (rest > 0 and not recipe.get('drop_last'))
    return recipe, schedule.steps, schedule.rates


def test_the_learning_rate_is_the_recipes_at_every_point(stepped):
    recipe, steps, rates = stepped
    peak = recipe['peak']
    assert rates[0] == pytest.approx(recipe.get('start', peak))
    assert max(rates) == pytest.approx(peak, rel=1e-4)
    if 'falls' in recipe:
        assert rates.index(max(rates)) == pytest.approx(recipe['warmup_steps'], abs=1)
        falls = [round(share * (len(rates) - 1)) for share in recipe['falls']]
        for number, fall in enumerate(falls):
            assert rates[fall - 1] == pytest.approx(peak * 0.1**number)
        assert rates[fall] == rates[-1] == pytest.approx(peak * 0.1 ** len(falls))
        return
    epochs = recipe['epochs']
    assert rates.index(max(rates)) == pytest.approx(recipe['warmup'] * steps, abs=2)
    middle = (epochs + recipe['warmup']) * steps // 2
    assert rates[middle] == pytest.approx(peak / 2, rel=1e-2)
    if recipe['warmup']:
        assert rates[-1] < 1e-5 * peak
    else:  # mmpretrain's evaluations change the rate once an epoch
        assert rates[-1] == pytest.approx(peak * (1 - math.cos(math.pi / epochs)) / 2)


@pytest.mark.parametrize('name', CONFIGS)
def test_weights_decay_as_the_recipe_says(name):
    """With LARS neither norms nor biases decay, and what does not is not adapted.

    In ViTDet neither norms nor positions do.
    """
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == RECIPES[name]['optimizer']
    norms, other = {
        'Lars': (_BatchNorm, 'bias'),
        'weights': ((_BatchNorm, LayerNorm), 'pos_embed'),
    }.get(RECIPES[name].get('decays', RECIPES[name]['optimizer']), ((), None))
    plain = {
        parameter
        for module in model.modules()
        for key, parameter in module.named_parameters(recurse=False)
        if isinstance(module, norms) or key == other
    }
    seen = set()
    for group in optimizer.param_groups:
        for parameter in group['params']:
            seen.add(parameter)
            if parameter.requires_grad:
                expected = 0 if plain and parameter in plain else RECIPES[name]['decay']
                assert group['weight_decay'] == pytest.approx(expected)
                assert not group.get('always_adapt')
    assert seen >= {p for p in model.parameters() if p.requires_grad}
