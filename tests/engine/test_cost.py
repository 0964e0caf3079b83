"""What the cost estimate says is what really happens."""

import importlib.util
import runpy
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import mmengine.dist
import pytest
import torch
from helpers import ROOT, images, run_ranks, run_tool, small_model, small_run
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import distributed

from mmsnclr.engine.cost import PeakMemory, ring_bytes, synthetic_peers
from mmsnclr.models import dist

CONFIG = ROOT / 'configs/demo/snclr_digits.py'


def load_tool():
    spec = importlib.util.spec_from_file_location(
        'estimate', ROOT / 'tools/analysis_tools/estimate.py'
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules['estimate'] = module
    spec.loader.exec_module(module)
    return module


def build(**options):
    torch.manual_seed(0)
    model = MODELS.build(small_model(**options)).train()
    model.queue.enqueue(torch.randn(64, 16), torch.arange(64))
    return model


def count_real_bytes(variants, out):
    """Train for a step of each variant; note what each collective brought this rank."""
    distributed.init_process_group('gloo')
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    def gather(values):
        parts = mmengine.dist.all_gather(values)
        received['all_gather'] += sum(p.nbytes for i, p in enumerate(parts) if i != rank)
        return torch.cat(parts)

    def reduce(values):
        received['all_reduce'] += values.nbytes
        mmengine.dist.all_reduce(values)

    def gradients(state, bucket):
        received['gradients'] += bucket.buffer().nbytes
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    # DDP refuses SyncBN on a CPU, where ours works.
    MMDistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None
    result = []
    for options in variants:
        received = dict(all_gather=0, all_reduce=0, gradients=0)
        model = MMDistributedDataParallel(build(**options), broadcast_buffers=False)
        model.register_comm_hook(None, gradients)
        counted = SimpleNamespace(
            all_gather=gather, all_reduce=reduce, get_world_size=lambda: ranks
        )
        with dist.exchanging_by(counted):
            model(*images(4, seed=rank, first_id=100 * rank), mode='loss')['loss'].backward()
        result.append(received)
    if rank == ranks - 1:
        torch.save(result, out)
    distributed.destroy_process_group()


@pytest.mark.parametrize('ranks', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_bytes_are_those_that_processes_exchange(ranks, tmp_path):
    out = str(tmp_path / 'received')
    variants = [{}, {'queue.sync': False}]
    assert run_ranks(count_real_bytes, ranks, variants, out) == [0] * ranks
    for options, real in zip(variants, torch.load(out)):
        estimate = load_tool().estimate_traffic(build(**options), size=4, edge=32, ranks=ranks)
        *exchanged, gradients = estimate.values()
        assert sum(exchanged) == real['all_gather'] + ring_bytes(real['all_reduce'], ranks)
        keys, _, statistics = exchanged
        assert keys > 0 and statistics > 0
        assert gradients == ring_bytes(real['gradients'], ranks) > 0


def test_at_the_papers_scale_a_view_brings_less_than_6_megabytes():
    model = revert_sync_batchnorm(
        MODELS.build(Config.fromfile(ROOT / 'configs/snclr_r50_800e.py').model)
    )
    model.queue.enqueue(torch.randn(128_000, 256), torch.arange(128_000))
    traffic = load_tool().estimate_traffic(model, size=128, edge=64, ranks=32)
    keys, counts, *_ = traffic.values()
    assert 2 * 4e6 < keys + counts < 2 * 6e6


def test_synthetic_peers_hold_what_this_rank_holds():
    rows = torch.arange(6.0).view(3, 2)
    with synthetic_peers(4) as received:
        gathered = dist.gather_rows(rows)
        total = dist.sum_over_ranks(rows.clone())
    assert torch.equal(gathered, rows.repeat(4, 1)) and torch.equal(total, 4 * rows)
    assert received == {'all_gather': 3 * 24, 'all_reduce': 2 * 3 * 24 // 4}
    assert torch.equal(dist.gather_rows(rows), rows)


def test_peak_memory_counts_what_lives_at_the_same_time():
    given = torch.zeros(1000)
    with PeakMemory() as memory:
        a = given + 1
        b = a.view(10, 100)  # no memory of its own
        a = torch.cat([a, a])  # 8 kB beside the 4 kB that b still holds
        assert memory.now == 12_000
        del b
        assert memory.now == 8_000
        a.add_(1)
        del a
    assert (memory.now, memory.peak) == (0, 12_000)


@pytest.mark.filterwarnings('ignore:.*found in sys.modules')
def test_it_needs_no_tree_leaves_which_torch_2_1_lacks(monkeypatch):
    monkeypatch.delattr('torch.utils._pytree.tree_leaves')
    runpy.run_module('mmsnclr.engine.cost')


def test_memory_of_the_loss_depends_on_neither_k_nor_length():
    tool = load_tool()
    peaks = []
    for k, length in ((5, 64_000), (30, 64_000), (30, 128_000)):
        options = {'head.neighbors': k, 'queue.length': length}
        model = revert_sync_batchnorm(MODELS.build(small_model(**options)))
        model.queue.enqueue(torch.randn(length, 16), torch.arange(length))
        peaks.append(tool._loss_bytes(model, size=128, ranks=32))
    # Counts of the entries, their logarithm and its mask are all that grows.
    assert max(peaks) - min(peaks) < 128_000 * 4 * 6


def test_the_tool_tells_schedule_memory_traffic_and_speed(digits):
    run = run_tool(
        'tools/analysis_tools/estimate.py',
        str(CONFIG),
        '--gpus=2',
        '--image-size=64',
        '--measure=1',
        '--cfg-options',
        f'train_dataloader.dataset.data_root={digits}/unlabelled',
        'train_dataloader.batch_size=16',
        'auto_scale_lr.base_batch_size=128',
    )
    assert run.returncode == 0, run.stderr
    for line in (
        '32 (2 ranks x 16)',
        '0.015 (the config means a batch of 128)',
        'candidate set',
        'gradients, DDP',
        'what limits',
        'the whole run',
    ):
        assert line in run.stdout
    assert 'mmengine' not in run.stdout


@OPTIM_WRAPPERS.register_module()
class CountedWrapper(OptimWrapper):
    entered = 0

    def optim_context(self, model):
        CountedWrapper.entered += 1
        return super().optim_context(model)


def test_measured_is_what_would_run_here(digits, tmp_path, monkeypatch):
    cfg = small_run(digits, tmp_path, **{'optim_wrapper.type': 'CountedWrapper'})
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)  # ranks of this machine
    loaders = Mock(side_effect=Runner.build_dataloader)
    monkeypatch.setattr(Runner, 'build_dataloader', loaders)
    args = SimpleNamespace(gpus=4, measure=2, image_size=32, images=None)
    rows = load_tool().measure(cfg, args)
    assert CountedWrapper.entered == 3  # one to warm up
    assert rows['optimiser'] == f'CountedWrapper of {cfg.optim_wrapper.optimizer.type}'
    assert loaders.call_count == 2 and '2 of which load here at once' in rows['loader']
    assert 'other ranks' in rows['left out']


def test_the_optimiser_keeps_nothing_for_what_it_does_not_train():
    model = build()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=0.1)))
    held = load_tool().estimate_memory(model, wrapper, size=4, ranks=2)
    trained = [p for p in model.parameters() if p.requires_grad]
    steps = 4 * len(trained)
    assert held['optimiser state'] == 2 * sum(p.nbytes for p in trained) + steps


def test_a_method_without_neighbours_has_an_estimate():
    cfg = Config.fromfile(ROOT / 'configs/sce_r50_200e.py')
    model, _ = load_tool().build(cfg)
    rows = load_tool().schedule(cfg, model, images=1_281_167, ranks=32)
    assert rows['compared with each prediction'] == 'its key and the candidate set of 65,536'


def test_a_missing_data_set_names_the_option_to_give():
    run = run_tool(
        'tools/analysis_tools/estimate.py',
        str(CONFIG),
        '--gpus=2',
        '--cfg-options',
        'train_dataloader.dataset.data_root=nowhere',
    )
    assert run.returncode and '--images' in run.stderr
