"""The candidate set: first in first out, search, self-exclusion, checkpoint."""

import pytest
import torch
from torch.nn import functional as F

from mmsnclr.models import NeighborQueue


def features(count, dim=4, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('batches', [[3, 3, 3, 3], [4, 4, 2], [10], [23], [7, 7, 1], [3, 12, 4]])
def test_the_newest_features_remain(batches):
    queue = NeighborQueue(length=10, dim=4)
    everything = features(sum(batches))
    start = 0
    for count in batches:
        ids = torch.arange(start, start + count)
        queue.enqueue(everything[start : start + count], ids, ids * 2)
        start += count
    newest = range(max(0, start - 10), start)
    assert queue.fill == len(newest)
    assert sorted(queue.ids[: queue.fill].tolist()) == list(newest)
    stored = queue.features[: queue.fill]
    expected = F.normalize(everything, dim=1)[queue.ids[: queue.fill]]
    torch.testing.assert_close(stored, expected)
    assert torch.equal(queue.labels[: queue.fill], queue.ids[: queue.fill] * 2)
    assert (queue.ids[queue.fill :] == -1).all()


def test_the_oldest_features_are_overwritten_first():
    queue = NeighborQueue(length=4, dim=4)
    for number in range(6):
        queue.enqueue(features(1, seed=number), torch.tensor([number]))
    assert queue.ids.tolist() == [4, 5, 2, 3]


def test_search_finds_the_most_similar():
    queue = NeighborQueue(length=50, dim=4)
    stored = F.normalize(features(50), dim=1)
    queue.enqueue(stored, torch.arange(50))
    queries = F.normalize(features(6, seed=1), dim=1)
    found = queue.search(queries, torch.arange(100, 106), k=5)
    for row, query in enumerate(queries):
        by_hand = sorted(range(50), key=lambda i: -float(query @ stored[i]))[:5]
        assert found.index[row].tolist() == by_hand
    torch.testing.assert_close(
        found.similarity, torch.einsum('nd,nkd->nk', queries, stored[found.index])
    )
    assert found.valid.all()


def test_autocast_does_not_round_the_search():
    queue = NeighborQueue(length=500, dim=4)
    queue.enqueue(features(500), torch.arange(500))
    queries = F.normalize(features(20, seed=1), dim=1)
    expected = queue.search(queries, None, k=10)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = queue.search(queries, None, k=10)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.similarity, expected.similarity)


def test_only_filled_entries_are_searched():
    queue = NeighborQueue(length=100, dim=4)
    queue.enqueue(-torch.ones(3, 4), torch.arange(3))  # all dissimilar to the query
    found = queue.search(F.normalize(torch.ones(1, 4), dim=1), torch.tensor([9]), k=3)
    assert sorted(found.index[0].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match='neighbors=4 exceeds the 3 entries'):
        queue.search(torch.ones(1, 4), torch.tensor([9]), k=4)


def test_an_image_is_never_its_own_neighbor():
    queue = NeighborQueue(length=8, dim=4)
    query = F.normalize(features(1), dim=1)
    # The image's own feature is there three times, from three epochs.
    queue.enqueue(
        torch.cat([query, query, query, features(3, seed=1)]), torch.tensor([7, 7, 7, 1, 2, 3])
    )
    found = queue.search(query, torch.tensor([7]), k=3)
    assert sorted(queue.ids[found.index[0]].tolist()) == [1, 2, 3]
    assert 7 in queue.ids[queue.search(query, None, k=3).index[0]]


def test_too_few_other_images_are_marked_invalid():
    queue = NeighborQueue(length=8, dim=4)
    queue.enqueue(features(4), torch.tensor([7, 7, 1, 7]))
    found = queue.search(F.normalize(features(2), dim=1), torch.tensor([7, 5]), k=3)
    assert found.valid.tolist() == [[True, False, False], [True, True, True]]


def test_images_without_identity_are_all_different():
    queue = NeighborQueue(length=8, dim=4)
    queue.enqueue(features(4), torch.tensor([-1, 7, -1, 1]))
    found = queue.search(F.normalize(features(2), dim=1), torch.tensor([-1, 7]), k=4)
    assert found.valid.sum(dim=1).tolist() == [4, 3]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_checkpoint_restores_the_set_exactly(dtype):
    queue = NeighborQueue(length=6, dim=4, dtype=dtype)
    queue.enqueue(features(8), torch.arange(8), torch.arange(8))
    restored = NeighborQueue(length=6, dim=4, dtype=dtype)
    restored.load_state_dict(queue.state_dict())
    for set_ in (queue, restored):
        set_.enqueue(features(3, seed=5), torch.arange(8, 11))
    assert restored.fill == queue.fill == 6
    for name, buffer in queue.named_buffers():
        assert torch.equal(buffer, restored.get_buffer(name)), name


def test_a_checkpoint_of_another_length_is_refused():
    stored = NeighborQueue(length=6, dim=4).state_dict()
    with pytest.raises(ValueError, match=r'set model\.queue\.length=6'):
        NeighborQueue(length=8, dim=4).load_state_dict(stored)
    with pytest.raises(ValueError, match=r'set model\.queue\.length=6'):
        NeighborQueue(length=8, dim=4, sync=False).load_entries(stored)


@pytest.mark.parametrize(
    ('setting', 'name'), [(dict(length=0), 'queue.length'), (dict(dtype='int8'), 'queue.dtype')]
)
def test_unknown_settings_are_named(setting, name):
    with pytest.raises(ValueError, match=name):
        NeighborQueue(**setting)


def test_sets_that_differ_between_ranks_stay_out_of_the_state_dict():
    queue = NeighborQueue(length=6, dim=4, sync=False)
    assert not queue.state_dict()
    queue.enqueue(features(4), torch.arange(4))
    restored = NeighborQueue(length=6, dim=4, sync=False)
    restored.load_entries(queue.entries())
    assert restored.fill == 4 and torch.equal(restored.features, queue.features)


@pytest.mark.parametrize('length', [5000, 4999, 700, 40])
@pytest.mark.parametrize('k', [1, 7, 30])
def test_a_search_in_chunks_and_blocks_is_exact(length, k, monkeypatch):
    monkeypatch.setattr(NeighborQueue, '_CHUNK', 2050)
    queue = NeighborQueue(length=length, dim=4)
    queue.enqueue(features(length), torch.arange(length) % 50)  # an image many times
    queries = F.normalize(features(9, seed=1), dim=1)
    ids = torch.tensor([0, 1, 2, 3, 100, 101, 0, 1, 49])  # some twice in the batch
    found = queue.search(queries, ids, k)
    similarity = queries @ queue.features.T
    similarity[ids[:, None] == queue.ids] = -torch.inf
    expected = similarity.topk(k, dim=1)
    torch.testing.assert_close(found.similarity, expected.values)
    assert torch.equal(found.valid, expected.values > -torch.inf)
    rows = torch.arange(9)[:, None]
    assert torch.equal(similarity[rows, found.index] > -torch.inf, found.valid)
    torch.testing.assert_close(similarity[rows, found.index], expected.values)
    assert len({tuple(sorted(row)) for row in found.index.tolist()}) > 1
    assert all(len(set(row)) == k for row in found.index.tolist())
