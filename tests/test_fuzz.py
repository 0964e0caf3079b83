"""Random settings and contents against plain models: the candidate set, the loss, image files."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmsnclr.datasets import AugmentedViews
from mmsnclr.models import NeighborQueue, log_positiveness, neighbor_scores, snclr_loss
from mmsnclr.models.snclr_loss import FORMS, NEIGHBORS_IN, Candidates

DIM = 4
ENQUEUE = st.tuples(st.just('enqueue'), st.integers(1, 25), st.booleans())
SEARCH = st.tuples(st.just('search'), st.integers(1, 5), st.booleans())
OTHER = st.tuples(st.sampled_from(['round trip', 'reset']), st.none(), st.none())


def fuzz(examples, derandomize=False):
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=derandomize,
    )


def check_queue(length, operations, seed):
    """Run operations on a candidate set and on a plain list of (feature, id, label)."""
    generator = torch.Generator().manual_seed(seed)
    queue, entries = NeighborQueue(length, DIM), []
    for name, size, with_ids in operations:
        if name == 'enqueue':
            # Few distinct values: duplicates and zero vectors are common.
            features = torch.randint(-1, 2, (size, DIM), generator=generator).float()
            ids = torch.randint(0, 8, (size,), generator=generator) if with_ids else None
            queue.enqueue(features, ids, ids)
            numbers = [-1] * size if ids is None else ids.tolist()
            unit = F.normalize(features.double(), dim=1).tolist()
            entries = [*entries, *zip(unit, numbers)][-length:]
        elif name == 'round trip':
            restored = NeighborQueue(length, DIM)
            restored.load_state_dict(queue.state_dict())
            queue = restored
        elif name == 'reset':
            queue, entries = NeighborQueue(length, DIM), []
        else:
            check_search(queue, entries, size, with_ids, generator)
        assert queue.fill == len(entries)
        held = sorted(zip(queue.features[: queue.fill].tolist(), queue.ids.tolist()))
        for (feature, number), (expected, identity) in zip(held, sorted(entries)):
            assert number == identity
            np.testing.assert_allclose(feature, expected, atol=1e-6)


def check_search(queue, entries, k, with_ids, generator):
    queries = F.normalize(torch.randn(3, DIM, generator=generator), dim=1)
    ids = torch.randint(0, 8, (3,), generator=generator) if with_ids else None
    if k > len(entries):
        with pytest.raises(ValueError, match=f'neighbors={k} exceeds the {len(entries)} entries'):
            queue.search(queries, ids, k)
        return
    found = queue.search(queries, ids, k)
    for row, query in enumerate(queries.double()):
        eligible = [
            float(query @ torch.tensor(feature, dtype=torch.float64))
            for feature, number in entries
            if ids is None or number != ids[row]
        ]
        expected = sorted(eligible, reverse=True)[:k]
        valid = found.valid[row]
        assert valid.tolist() == [True] * len(expected) + [False] * (k - len(expected))
        np.testing.assert_allclose(found.similarity[row][valid], expected, atol=1e-6)
        index = found.index[row][valid]
        assert len(set(index.tolist())) == len(index)
        np.testing.assert_allclose(queue.features[index].double() @ query, expected, atol=1e-6)
        if ids is not None:
            assert not (queue.ids[index] == ids[row]).any()


QUEUES = given(
    length=st.integers(1, 40),
    operations=st.lists(ENQUEUE | SEARCH | OTHER, min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)


@QUEUES
@fuzz(200, derandomize=True)  # the slow ones look for new cases
def test_the_set_is_a_list_of_the_newest_entries(length, operations, seed):
    check_queue(length, operations, seed)


@pytest.mark.slow
@QUEUES
@fuzz(10_000)
def test_the_set_is_a_list_of_the_newest_entries_10000_times(length, operations, seed):
    check_queue(length, operations, seed)


def check_loss(n, others, k, entries, temperature, form, neighbors_in, degenerate, seed):
    """Compare with Eq. 2 written out over every instance's own neighbours, in float64."""
    draw = torch.Generator().manual_seed(seed)

    def features(count):
        values = torch.randn(count, DIM, generator=draw, dtype=torch.float64)
        if degenerate:  # zero vectors and duplicates
            values = values.sign() * (values.abs() > 1)
        return F.normalize(values, dim=1)

    m, k = n + others, min(k, entries)
    z, y, keys, rows = (features(count) for count in (n, n, m, entries))
    picked = torch.stack([torch.randperm(entries, generator=draw)[:k] for _ in range(m)])
    valid = torch.rand(m, k, generator=draw) > 0.2
    counts = torch.zeros(entries, dtype=torch.int32)
    counts.scatter_add_(0, picked.flatten(), valid.flatten().int())

    e_keys = torch.exp((z @ keys.T) / temperature)
    e_all = torch.exp(torch.einsum('nd,mkd->nmk', z, rows[picked]) / temperature) * valid
    own = torch.arange(n)
    e_own = e_all[own, own].clone()
    scores = torch.einsum('nd,nkd->nk', y, rows[picked[:n]])
    attention = torch.exp(scores) * valid[:n]
    weights = attention / attention.sum(dim=1, keepdim=True).clamp(min=1e-300)
    normalizer = e_keys.sum(dim=1)
    if neighbors_in == 'positives':
        normalizer = normalizer + e_own.sum(dim=1)
    else:
        if neighbors_in == 'negatives':
            e_all[own, own] = 0
        normalizer = normalizer + e_all.sum(dim=(1, 2))
    e_key = e_keys[own, own]
    if neighbors_in == 'negatives':
        expected = -(e_key / normalizer).log().mean()
    elif form == 'log_sum':
        positives = e_key + (weights * e_own).sum(dim=1)
        expected = -(positives / normalizer).log().mean()
    else:
        soft = weights * torch.where(valid[:n], (e_own / normalizer[:, None]).log(), 0.0)
        expected = -((e_key / normalizer).log() + soft.sum(dim=1)).mean()

    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-6 / temperature + 1e-5)):
        candidates = Candidates(rows.to(dtype), counts, picked[:n], valid[:n])
        score = neighbor_scores(y.to(dtype), candidates)
        log_weights = log_positiveness(score, valid[:n], torch.zeros((), dtype=dtype))
        prediction = z.detach().to(dtype, copy=True).requires_grad_()
        loss = snclr_loss(
            prediction,
            keys.to(dtype),
            own,
            temperature,
            candidates,
            log_weights,
            form,
            neighbors_in,
        )
        loss.backward()
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=tolerance, atol=tolerance)
        assert prediction.grad.isfinite().all()


LOSSES = given(
    n=st.integers(1, 6),
    others=st.integers(0, 6),
    k=st.integers(1, 9),
    entries=st.integers(1, 20),
    temperature=st.floats(0.01, 10),
    form=st.sampled_from(FORMS),
    neighbors_in=st.sampled_from(NEIGHBORS_IN),
    degenerate=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


@LOSSES
@fuzz(200, derandomize=True)
def test_the_loss_is_eq_2_for_any_setting(**case):
    check_loss(**case)


@pytest.mark.slow
@LOSSES
@fuzz(10_000)
def test_the_loss_is_eq_2_for_any_setting_10000_times(**case):
    check_loss(**case)


@pytest.mark.parametrize('kind', ['.jpg', '.png'])
def test_a_mutated_file_gives_views_or_a_value_error(tmp_path, kind):
    draw = np.random.default_rng(0)
    photograph = cv2.GaussianBlur(draw.integers(0, 256, (48, 64, 3), np.uint8), (9, 9), 3)
    data = cv2.imencode(kind, photograph)[1].tobytes()
    views = AugmentedViews([dict(size=16), dict(size=8)])
    outcomes = {'views': 0, 'error': 0}
    for number in range(200):
        mutated = bytearray(data)
        for position in draw.integers(0, len(data), 1 + number % 8):
            mutated[position] = draw.integers(0, 256)
        if number % 5 == 0:
            del mutated[draw.integers(1, len(data)) :]
        path = tmp_path / f'{number}{kind}'
        path.write_bytes(bytes(mutated))
        try:
            made = views(dict(img_path=str(path)))['img']
        except ValueError as error:
            assert str(path) in str(error)
            outcomes['error'] += 1
        else:
            assert [view.shape for view in made] == [(16, 16, 3), (8, 8, 3)]
            outcomes['views'] += 1
    assert min(outcomes.values()) > 0
