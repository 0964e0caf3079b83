"""A whole training step: SNCLR with a full candidate set against mmpretrain's MoCo v3.

Same backbone, projector, predictor, batch and optimiser. Also timm's LARS against mmpretrain's, and
the momentum update against a loop over parameters.

python benchmarks/step.py [--backbone r50|vit-s] [--amp]
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from compare import in_turns, print_table
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmsnclr.models import NeighborMethod

ROOT = Path(__file__).resolve().parents[1]
VIT_S = dict(type='VisionTransformer', arch='deit-small', patch_size=16, img_size=224)
LARS = dict(type='mmpretrain.LARS', lr=0.3, momentum=0.9, weight_decay=1.5e-6)
TIMM_LARS = dict(LARS, type='TIMMLars')
ADAMW = dict(type='AdamW', lr=1.5e-4, weight_decay=0.1)


def models(backbone: str) -> dict[str, nn.Module]:
    """SNCLR and MoCo v3 of the same parts."""
    snclr = Config.fromfile(ROOT / 'configs/snclr_r50_800e.py').model
    if backbone == 'vit-s':
        snclr.backbone = dict(VIT_S)
        snclr.neck.in_channels = 384
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


def stepper(model: nn.Module, optimizer: dict, batch: int, amp: bool) -> Callable[[], None]:
    """A function that trains for one step on random images."""
    wrapper = build_optim_wrapper(model, dict(optimizer=optimizer))
    views = [torch.randn(batch, 3, 224, 224) for _ in range(2)]
    samples = [DataSample(metainfo=dict(img_path=f'{i}.jpg')) for i in range(batch)]

    def step() -> None:
        with torch.autocast('cpu', torch.bfloat16) if amp else nullcontext():
            loss = model(views, samples, mode='loss')['loss']
        wrapper.update_params(loss)
        if isinstance(model, NeighborMethod):
            model.after_optimizer_step(0.0)

    return step


def optimizer_steps(model: nn.Module) -> dict[str, Callable[[], None]]:
    """LARS of both libraries over the gradients that the model holds."""
    wrappers = {
        name: build_optim_wrapper(model, dict(optimizer=dict(cfg, lr=0.0)))
        for name, cfg in (("mmpretrain's LARS", LARS), ("timm's LARS", TIMM_LARS))
    }
    return {name: wrapper.optimizer.step for name, wrapper in wrappers.items()}


def momentum_updates(model: nn.Module) -> dict[str, Callable[[], None]]:
    """The momentum update, one parameter after the other and all together."""

    @torch.no_grad()
    def loop() -> None:
        pairs = zip(model.momentum_encoder.parameters(), model.online_encoder.parameters())
        for slow, fast in pairs:
            slow.mul_(0.99).add_(fast, alpha=0.01)

    return {'loop over parameters': loop, "torch's, all together": model.update_momentum_encoder}


def report(title: str, alternatives: dict[str, Callable[[], None]], rounds: int) -> None:
    """Print times relative to the first alternative's."""
    times = in_turns(alternatives, rounds)
    first = next(iter(times.values()))
    print(f'\n{title}')
    rows = [[name, f'{1e3 * t:.1f}', f'{t / first:.3f}'] for name, t in times.items()]
    print_table(['', 'ms', 'ratio'], rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--backbone', choices=['r50', 'vit-s'], default='r50')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args()
    MessageHub.get_current_instance().update_info('max_iters', 1000)
    optimizer = TIMM_LARS if args.backbone == 'r50' else ADAMW
    both = models(args.backbone)
    steps = {n: stepper(m, optimizer, args.batch, args.amp) for n, m in both.items()}
    report(f'training step, {args.backbone}, batch {args.batch}', steps, args.rounds)
    report('optimiser step', optimizer_steps(both['SNCLR']), 4 * args.rounds)
    report('momentum update', momentum_updates(both['SNCLR']), 4 * args.rounds)
