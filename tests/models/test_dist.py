"""Several processes compute what one does with the joined batch."""

import mmengine.dist
import pytest
import torch
import torch.distributed as dist
from helpers import (
    build_method,
    fill_set,
    gradient_step,
    images,
    run_ranks,
    small_model,
    small_run,
    snclr_by_hand,
)
from mmengine.model import MMDistributedDataParallel

from mmsnclr.engine import build_runner
from mmsnclr.models.dist import gather_rows

NO_BATCH_NORM = {
    'backbone.norm_cfg': dict(type='GN', num_groups=4),
    'neck.norm_cfg': dict(type='GN', num_groups=4),
    'head.predictor.norm_cfg': dict(type='GN', num_groups=4),
}


def build(**options):
    return build_method(small_model(**NO_BATCH_NORM, **options))


def _rank(folder, options):
    dist.init_process_group('gloo')
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = build(**options)
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    fill_set(wrapped, 4, rank=rank, ranks=ranks)
    held = {name: value.clone() for name, value in model.queue.entries().items()}
    loss, gradients = gradient_step(wrapped, rank, ranks)
    dist.all_reduce(loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    share = 8 // ranks
    for step in range(50):
        views, samples = images(8, seed=step, first_id=step * 8)
        mine = slice(rank * share, (rank + 1) * share)
        wrapped([v[mine] for v in views], samples[mine], mode='loss')['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_optimizer_step(step / 50)
    result = dict(loss=loss / ranks, gradients=gradients, held=held, queue=model.queue.entries())
    torch.save(result, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(
    scope='module',
    params=[
        pytest.param((2, {}), id='2_ranks-one_set'),
        pytest.param((2, {'queue.sync': False}), id='2_ranks-a_set_each'),
        # Each image is in its rank's set of 16, so one neighbour is missing.
        pytest.param((2, {'queue.sync': False, 'head.neighbors': 16}), id='2_ranks-too_small_sets'),
        pytest.param((2, {'type': 'NNCLR', 'head.neighbors': 1}), id='2_ranks-nnclr'),
        pytest.param((4, {}), id='4_ranks-one_set', marks=pytest.mark.slow),
        pytest.param((8, {}), id='8_ranks-one_set', marks=pytest.mark.slow),
    ],
)
def several_ranks(request, tmp_path_factory):
    ranks, options = request.param
    folder = tmp_path_factory.mktemp('ranks')
    assert run_ranks(_rank, ranks, folder, options) == [0] * ranks
    return options, [torch.load(folder / f'{rank}.pth') for rank in range(ranks)]


def test_several_processes_compute_what_one_does_with_the_joined_batch(several_ranks):
    options, results = several_ranks
    sync = options.get('queue.sync', True)
    model = build(**options)
    if not sync:
        # Each rank's images find their neighbours in its own set.
        sets = [(r['held']['features'][:16], r['held']['ids'][:16]) for r in results]
        each = [own for own in sets for _ in range(8 // len(results))]
        loss = snclr_by_hand(model, *images(8, seed=99, first_id=0), each).float()
        for result in results:
            torch.testing.assert_close(result['loss'], loss.detach(), rtol=1e-5, atol=1e-5)
        return
    fill_set(model, 4)
    loss, gradients = gradient_step(model)
    for result in results:
        assert result['gradients'].keys() == gradients.keys()
        torch.testing.assert_close(result['loss'], loss, rtol=1e-6, atol=1e-6)
        for name, gradient in gradients.items():
            error = (result['gradients'][name] - gradient).norm()
            rounding = 5e-7 * len(results)  # of as many partial sums
            assert error <= rounding * max(1, gradient.norm()), name
            assert error <= 1e-3 * gradient.norm(), name


def test_sets_stay_bit_equal_between_ranks(several_ranks):
    options, (first, *others) = several_ranks
    sync = options.get('queue.sync', True)
    for other in others:
        same = {
            name: torch.equal(value, other['queue'][name]) for name, value in first['queue'].items()
        }
        assert same['features'] == same['ids'] == sync
    assert first['queue']['enqueued'] == 55 * (8 if sync else 4)


@pytest.mark.parametrize('sync', [True, False])
def test_a_wrapper_that_sends_buffers_leaves_the_sets_alone(digits, tmp_path, sync):
    options = {
        'model.queue.sync': sync,
        'model_wrapper_cfg': dict(type='MMDistributedDataParallel', broadcast_buffers=True),
        'train_dataloader.batch_size': 8,
        'train_cfg.max_epochs': 1,
        'launcher': 'pytorch',
    }

    def run():
        runner = build_runner(small_run(digits, tmp_path, **options))
        runner.train()
        assert runner.model.broadcast_buffers
        torch.save(runner.model.module.queue.entries(), tmp_path / f'{runner.rank}.pth')

    assert run_ranks(run, 2) == [0, 0]
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert first['enqueued'] == second['enqueued'] == 6 * 8 * (1 + sync)
    if sync:
        assert all(torch.equal(first[name], second[name]) for name in first)
    else:  # in an epoch each sees other images
        assert not torch.isin(first['ids'][:48], second['ids'][:48]).any()


def test_gradients_agree_between_ranks(several_ranks):
    _, (first, *others) = several_ranks
    for other in others:
        for name, gradient in first['gradients'].items():
            assert torch.equal(gradient, other['gradients'][name])


def gather_as_by_nccl():
    dist.init_process_group('gloo')
    rank, ranks = dist.get_rank(), dist.get_world_size()
    rows = torch.arange(6.0).view(3, 2) + 10 * rank
    expected = torch.cat([torch.arange(6.0).view(3, 2) + 10 * other for other in range(ranks)])
    into_several = gather_rows(rows)
    mmengine.dist.get_backend = lambda: 'nccl'  # in this process alone
    dist.all_gather = None
    assert torch.equal(gather_rows(rows), into_several)
    assert torch.equal(gather_rows(rows.T), torch.cat([p.T for p in expected.split(3)]))
    assert torch.equal(into_several, expected)
    dist.destroy_process_group()


def test_rows_gathered_into_one_tensor_are_in_rank_order():
    assert run_ranks(gather_as_by_nccl, 2) == [0, 0]
