"""A step on the device: it never waits, and is exact where exactness is promised."""

import contextlib
from itertools import count

import pytest
import torch
from helpers import STEP_OPTIONS, build_method, config_of, fill_set, images, small_model
from torch.nn import functional as F

from mmsnclr.engine.cost import synthetic_peers
from mmsnclr.models import NeighborQueue, SNCLRLoss, log_positiveness, neighbor_scores
from mmsnclr.models.snclr_loss import Candidates

PRECISIONS = dict(fp32=None, fp16=torch.float16, bf16=torch.bfloat16)
OPTIONS = [*STEP_OPTIONS, {'channels_last': True}, 'nnclr', 'sce', 'sce, symmetric']


@contextlib.contextmanager
def no_waiting(device):
    """Refuse whatever makes the host wait for the device."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('default')


@contextlib.contextmanager
def tf32():
    """Let float32 products be rounded to TF32 everywhere, as some images of machines do."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('high')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_encoders_search_loss_and_enqueue_never_wait(device, options, precision):
    config = config_of(options) if isinstance(options, str) else small_model(**options)
    model = build_method(config).to(device)
    fill_set(model, 10)  # past the end of the set of 64
    numbers = count()
    dtype = PRECISIONS[precision]

    def step():
        views, samples = images(8, seed=99, first_id=8 * next(numbers))
        views = [view.to(device) for view in views]
        with no_waiting(device), torch.autocast(device, dtype, enabled=dtype is not None):
            loss = model.loss(views, samples)['loss']
            loss.backward()
            model.after_optimizer_step(0.5)
        return loss

    assert all(bool(step().isfinite()) for _ in range(3))
    assert model.queue.fill == 64


def test_a_rank_of_many_never_waits(device):
    model = build_method(small_model()).to(device)
    views, samples = images(8, seed=0)
    views = [view.to(device) for view in views]
    with synthetic_peers(32) as received:
        model.loss(views, samples)['loss'].backward()  # what is made once is made here
        model.forget_step()
        with no_waiting(device):
            model.loss(views, samples)['loss'].backward()
            model.after_optimizer_step(0.5)
    assert received['all_gather'] > 0 and model.queue.fill == 64


@pytest.mark.parametrize('form', ['log_sum', 'sum_log'])
@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_loss_and_gradient_are_float64s_also_where_tf32_is_allowed(device, form, temperature):
    batch, length, width, k = 96, 3000, 128, 30
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        values = torch.randn(*shape, width, generator=generator, dtype=torch.float64)
        return F.normalize(values, dim=-1)

    z, y, keys, rows = unit(batch), unit(batch), unit(batch), unit(length)
    picked = torch.stack([torch.randperm(length, generator=generator)[:k] for _ in range(batch)])

    def by_hand(z, y):
        z, y = (F.normalize(x, dim=1) for x in (z, y))
        w = (y[:, None] * rows[picked]).sum(-1).softmax(1)
        logits = torch.cat([(z * keys).sum(1)[:, None], (z[:, None] * rows[picked]).sum(-1)], dim=1)
        logits, w = logits / temperature, torch.cat([torch.ones(batch, 1), w], dim=1)
        everything = torch.cat([keys, rows[picked.flatten()]])
        normalizer = (z @ everything.T / temperature).exp().sum(1).log()
        if form == 'log_sum':
            return (normalizer - (w * logits.exp()).sum(1).log()).mean()
        return (w * (normalizer[:, None] - logits)).sum(1).mean()

    def ours(z, y):
        z, y = (F.normalize(x, dim=1) for x in (z, y))
        counts = torch.bincount(picked.flatten(), minlength=length).int().to(device)
        valid = torch.ones(batch, k, dtype=torch.bool, device=device)
        candidates = Candidates(rows.float().to(device), counts, picked.to(device), valid)
        scores = neighbor_scores(y, candidates)
        log_weights = log_positiveness(scores, valid, torch.zeros((), device=device))
        own = torch.arange(batch, device=device)
        loss = SNCLRLoss(temperature, form)
        return loss(z, keys.float().to(device), own, candidates, log_weights)

    expected = [x.clone().requires_grad_() for x in (z, y)]
    by_hand(*expected).backward()
    got = [x.float().to(device).requires_grad_() for x in (z, y)]
    with tf32():
        loss = ours(*got)
        loss.backward()
    torch.testing.assert_close(loss.double().cpu(), by_hand(z, y), rtol=1e-5, atol=0)
    for ours_, theirs in zip(got, expected):
        error = (ours_.grad.double().cpu() - theirs.grad).norm() / theirs.grad.norm()
        assert float(error) < 1e-5


def test_search_finds_what_brute_force_finds(device):
    length, width, batch, k = (128_000 if device == 'cuda' else 8_000), 256, 128, 30
    generator = torch.Generator().manual_seed(0)
    queue = NeighborQueue(length, width).to(device)
    features = torch.randn(length, width, generator=generator)
    queue.enqueue(features.to(device), torch.arange(length, device=device))
    queries = F.normalize(torch.randn(batch, width, generator=generator), dim=1).to(device)
    ids = torch.arange(batch, device=device)  # an image is not its own neighbour
    with tf32():
        found = queue.search(queries, ids, k)
    similarity = queries.double() @ queue.features.double().T
    similarity[ids, ids] = -1
    best, index = similarity.topk(k, dim=1)
    torch.testing.assert_close(found.similarity.double(), best, rtol=0, atol=1e-6)
    same = (found.index.sort().values == index.sort().values).double().mean()
    assert float(same) > 0.999  # two that are equal to the last bit may be swapped
    if device == 'cuda':
        milliseconds, extra = cost(lambda: queue.search(queries, ids, k))
        assert extra < 60e6 and milliseconds < 3


def cost(call, rounds=10):
    """Milliseconds of a call on the device, and the bytes that it occupies at most beside."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(rounds):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / rounds, torch.cuda.max_memory_allocated() - before
