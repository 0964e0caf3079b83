"""Two ranks on one device, joined by gloo: NCCL takes one rank for each device."""

import itertools
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import (
    build_method,
    config_of,
    fill_set,
    free_port,
    gradient_step,
    images,
    small_run,
    snclr_by_hand,
)
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope

from mmsnclr.engine import build_runner
from mmsnclr.models.dist import unwrap
from mmsnclr.models.sync_batch_norm import SyncBatchNorm

RANKS = 2
METHODS = ('snclr', 'nnclr', 'sce', 'sce, symmetric', 'a set each')
LAYERS = list(
    itertools.product(
        (torch.float32, torch.float16), (torch.contiguous_format, torch.channels_last)
    )
)
GROUP_NORM = dict(type='GN', num_groups=4)  # statistics of an image: the joined batch's are its own


def build(method, device):
    config = config_of('snclr' if method == 'a set each' else method)
    config.backbone.norm_cfg = config.neck.norm_cfg = GROUP_NORM
    if 'predictor' in config.head:
        config.head.predictor.norm_cfg = GROUP_NORM
    config.queue.sync = method != 'a set each'
    return build_method(config).to(device)


def normalised(layer, device, dtype, layout, mine=slice(None)):
    """What a layer makes of a batch whose parts differ, and its gradients."""
    generator = torch.Generator().manual_seed(0)
    x, direction = (torch.randn(8, 16, 6, 5, generator=generator) for _ in range(2))
    x = (x * torch.arange(1, 9)[:, None, None, None]).to(dtype)  # each image has its own scale
    x, direction = (part[mine].to(device, memory_format=layout) for part in (x, direction))
    x.requires_grad_()
    layer = layer.to(device)
    y = layer(x)
    (y.float() * direction).sum().backward()
    same_layout = y.is_contiguous(memory_format=layout)
    return dict(
        output=y.detach().float(),
        input=x.grad.float(),
        weight=layer.weight.grad,
        bias=layer.bias.grad,
        mean=layer.running_mean,
        var=layer.running_var,
        same_layout=torch.tensor(float(same_layout), device=device),
    )


class Spoil(Hook):
    """Labels the images of rank 0 alone, and puts NaN into one of rank 1's."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 0:
            for number, sample in enumerate(data_batch['data_samples']):
                sample.set_gt_label(number % 3)
        elif runner.iter == 4:
            backbone = unwrap(runner.model).backbone
            self.handle = backbone.register_forward_pre_hook(self.poison)
        elif runner.iter == 5:
            self.handle.remove()

    def poison(self, module, inputs):
        inputs[0][3] = float('nan')


def _rank(rank, port, device, folder, digits):
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    # Both are on the first device. The group is there before the Runner would join by NCCL.
    os.environ.update(LOCAL_RANK='0', RANK=str(rank), WORLD_SIZE=str(RANKS))
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo')
    results = {}
    for method in METHODS:
        devices = [0] if device == 'cuda' else None
        model = build(method, device)
        wrapped = MMDistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        fill_set(wrapped, 6, rank=rank, ranks=RANKS)
        fill = model.queue.fill
        held = model.queue.features[:fill].clone(), model.queue.ids[:fill].clone()
        loss, gradients = gradient_step(wrapped, rank, RANKS)
        model.after_optimizer_step(0.5)
        dist.all_reduce(loss)
        results[method] = dict(
            loss=loss / RANKS,
            gradients=gradients,
            features=model.queue.features.clone(),
            held=held,
        )
    share = 8 // RANKS
    mine = slice(rank * share, (rank + 1) * share)
    for number, (dtype, layout) in enumerate(LAYERS):
        found = normalised(SyncBatchNorm(16), device, dtype, layout, mine)
        for name in ('weight', 'bias'):
            dist.all_reduce(found[name])
        results[f'layer {number}'] = found
    config = small_run(digits, f'{folder}/run', **{'train_dataloader.batch_size': 8})
    config.launcher = 'pytorch'
    runner = build_runner(config)
    runner.register_hook(Spoil(), priority='VERY_HIGH')
    runner.train()
    results['skipped'] = runner.message_hub.get_info('skipped_steps')
    results['weights'] = unwrap(runner.model).state_dict()
    torch.save(results, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture
def ranks(device, digits, tmp_path):
    # CUDA cannot be used in a forked process; without it, nothing is imported anew.
    method = 'spawn' if device == 'cuda' else 'fork'
    arguments = (free_port(), device, str(tmp_path), digits)
    mp.start_processes(_rank, arguments, RANKS, start_method=method)
    return [torch.load(tmp_path / f'{rank}.pth', device) for rank in range(RANKS)]


def test_two_ranks_compute_what_one_does_with_the_joined_batch_and_none_hangs(device, ranks):
    for method in METHODS:
        first, second = (result[method] for result in ranks)
        assert first['gradients'].keys() == second['gradients'].keys()
        for name, gradient in first['gradients'].items():
            assert torch.equal(gradient, second['gradients'][name]), name
        assert torch.equal(first['features'], second['features']) == (method != 'a set each')
        model = build(method, device)
        if method == 'a set each':
            views, samples = images(8, seed=99, first_id=0)
            sets = [part['held'] for part in (first, second) for _ in range(8 // RANKS)]
            by_hand = snclr_by_hand(model, [view.to(device) for view in views], samples, sets)
            torch.testing.assert_close(first['loss'].double(), by_hand, rtol=1e-3, atol=1e-3)
            continue
        fill_set(model, 6)
        loss, gradients = gradient_step(model)
        torch.testing.assert_close(first['loss'], loss, rtol=1e-3, atol=1e-3)
        for name, gradient in gradients.items():
            error = (first['gradients'][name] - gradient).norm()
            assert error <= 1e-3 * max(1, gradient.norm()), (method, name)
    for number, (dtype, layout) in enumerate(LAYERS):
        joined = normalised(torch.nn.BatchNorm2d(16), device, torch.float32, layout)
        for name, expected in joined.items():
            parts = [result[f'layer {number}'][name] for result in ranks]
            found = torch.cat(parts) if name in ('output', 'input') else parts[0]
            tolerance = 1e-5 if dtype == torch.float32 else 5e-3
            error = (found - expected).abs().max() / expected.abs().max()
            assert error <= tolerance, (dtype, layout, name)
    # NaN of rank 1 is skipped by both; labels that it lacks make it wait for nobody.
    assert [result['skipped'] for result in ranks] == [1, 1]
    for name, values in ranks[0]['weights'].items():
        if 'running_' not in name and 'num_batches' not in name:  # each rank's own without SyncBN
            assert torch.equal(values, ranks[1]['weights'][name]), name
        assert bool(values.isfinite().all()), name
