"""A whole training step: SNCLR with a full candidate set against mmpretrain's MoCo v3.

Same backbone, projector, predictor, batch and optimiser, which is the recipe's. Also that optimiser
against the same with a group for each tensor and against mmpretrain's LARS, and the momentum update
against a loop over parameters.

python benchmarks/step.py [--backbone r50|vit-s] [--amp] [--rounds 0]
"""

import argparse
import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import mmengine.optim
import torch
from compare import in_turns, print_table
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmsnclr.engine.param_groups import build_optim_wrapper
from mmsnclr.models import NeighborMethod

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {'r50': 'snclr_r50_800e.py', 'vit-s': 'snclr_vit-s_300e.py'}


def recipe(backbone: str) -> Config:
    """The recipe of a backbone."""
    return Config.fromfile(ROOT / 'configs' / RECIPES[backbone])


def models(backbone: str) -> dict[str, nn.Module]:
    """SNCLR and MoCo v3 of the same parts."""
    snclr = recipe(backbone).model
    moco = dict(
        type='MoCoV3',
        data_preprocessor=snclr.data_preprocessor,
        backbone=snclr.backbone,
        neck=snclr.neck,
        head=dict(
            type='MoCoV3Head',
            predictor=snclr.head.predictor,
            loss=dict(type='CrossEntropyLoss'),
            temperature=0.2,
        ),
    )
    built = {
        name: revert_sync_batchnorm(MODELS.build(cfg)).train()
        for name, cfg in (('MoCo v3', moco), ('SNCLR', snclr))
    }
    queue = built['SNCLR'].queue
    queue.enqueue(torch.randn(queue.length, queue.dim), torch.arange(queue.length))
    return built


def optimizer_of(backbone: str, **changes) -> dict:
    """The recipe's optimiser and its groups, without its precision; settings may differ."""
    cfg = recipe(backbone).optim_wrapper.to_dict()
    kept = {key: cfg[key] for key in ('optimizer', 'paramwise_cfg') if key in cfg}
    return dict(kept, optimizer=dict(cfg['optimizer'], **changes))


def stepper(model: nn.Module, optimizer: dict, batch: int, amp: bool) -> Callable[[], None]:
    """A function that trains for one step on random images."""
    wrapper = build_optim_wrapper(model, optimizer)
    views = [torch.randn(batch, 3, 224, 224) for _ in range(2)]
    samples = [DataSample(metainfo=dict(img_path=f'{i}.jpg')) for i in range(batch)]

    def step() -> None:
        with torch.autocast('cpu', torch.bfloat16) if amp else nullcontext():
            loss = model(views, samples, mode='loss')['loss']
        wrapper.update_params(loss)
        if isinstance(model, NeighborMethod):
            model.after_optimizer_step(0.0)

    return step


class Operations(TorchDispatchMode):
    """Counts the operators that are called inside; on CUDA each is a kernel or several."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run the operator."""
        self.count += 1
        return function(*args, **(kwargs or {}))


def _steps(model: nn.Module, **configs: dict) -> dict[str, Callable[[], None]]:
    """Optimiser steps of a model by configs, a group for each tensor and, by the first, merged."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    first = next(iter(configs.values()))
    wrappers = {'groups merged': build_optim_wrapper(model, first)}
    for name, cfg in configs.items():
        wrappers[name.replace('_', ' ')] = mmengine.optim.build_optim_wrapper(model, cfg)
    return {name: wrapper.optimizer.step for name, wrapper in wrappers.items()}


def optimizer_steps(model: nn.Module, backbone: str) -> dict[str, Callable[[], None]]:
    """The recipe's optimiser here, and mmpretrain's LARS."""
    configs = dict(a_group_for_each_tensor=optimizer_of(backbone, lr=0.0))
    if backbone == 'r50':
        configs['LARS_of_mmpretrain'] = optimizer_of(backbone, lr=0.0, type='mmpretrain.LARS')
    return _steps(model, **configs)


def optimizer_launches(model: nn.Module, backbone: str) -> dict[str, Callable[[], None]]:
    """The recipe's optimiser as the host drives it on CUDA: on tensors of one number each."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.data.flatten()[:1].clone(), None
    cfg = optimizer_of(backbone, lr=0.0, foreach=True)
    return _steps(model, a_group_for_each_tensor=cfg)


def momentum_updates(model: nn.Module) -> dict[str, Callable[[], None]]:
    """The momentum update, one parameter after the other and all together."""

    @torch.no_grad()
    def loop() -> None:
        pairs = zip(model.momentum_encoder.parameters(), model.online_encoder.parameters())
        for slow, fast in pairs:
            slow.mul_(0.99).add_(fast, alpha=0.01)

    return {'loop over parameters': loop, "torch's, all together": model.update_momentum_encoder}


def report(title: str, alternatives: dict[str, Callable[[], None]], rounds: int) -> None:
    """Print times relative to the first alternative's, and operators."""
    times = in_turns(alternatives, rounds)
    first = next(iter(times.values()))
    rows = []
    for name, t in times.items():
        with Operations() as operations:
            alternatives[name]()
        rows.append([name, f'{operations.count:,}', f'{1e3 * t:.1f}', f'{t / first:.3f}'])
    print(f'\n{title}')
    print_table(['', 'operators', 'ms', 'ratio'], rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--backbone', choices=['r50', 'vit-s'], default='r50')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--rounds', type=int, default=7, help='0 leaves the whole step out')
    args = parser.parse_args()
    MessageHub.get_current_instance().update_info('max_iters', 1000)
    MMLogger.get_instance('step', log_level='ERROR')
    both = models(args.backbone)
    if args.rounds:
        optimizer = optimizer_of(args.backbone)
        steps = {n: stepper(m, optimizer, args.batch, args.amp) for n, m in both.items()}
        report(f'training step, {args.backbone}, batch {args.batch}', steps, args.rounds)
    rounds = 4 * args.rounds or 8
    report('optimiser step', optimizer_steps(both['SNCLR'], args.backbone), rounds)
    launches = optimizer_launches(both['SNCLR'], args.backbone)
    report("optimiser step, the host's part on CUDA", launches, rounds)
    report('momentum update', momentum_updates(both['SNCLR']), rounds)
