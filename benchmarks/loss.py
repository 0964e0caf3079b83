"""Search, loss and gradient of one view order on one of 32 ranks, against a plain implementation.

The plain one is Eq. 2 as it reads: all neighbours of all 4,096 instances are gathered as features
and scored, weights are laid out over the whole row. Losses and gradients are compared before
anything is timed. The other ranks' keys and picks are given.

python benchmarks/loss.py [--rounds N]
"""

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from compare import in_turns, print_table
from torch import Tensor
from torch.nn import functional as F

from mmsnclr.engine.cost import PeakMemory, synthetic_peers
from mmsnclr.models import NeighborQueue, SNCLRLoss
from mmsnclr.models.dist import gather_rows, sum_over_ranks
from mmsnclr.models.snclr_loss import Candidates, log_positiveness, neighbor_scores

RANKS, BATCH, DIM, CENTRES, TEMPERATURE = 32, 128, 256, 1000, 0.2
RELATIVE_ERROR = 1e-5


@dataclass
class Problem:
    """What a rank holds when the loss begins, and what the other ranks found."""

    queue: NeighborQueue
    projection: Tensor
    prediction: Tensor
    keys: Tensor
    ids: Tensor
    picks: Tensor
    other_counts: Tensor

    @property
    def neighbors(self) -> int:
        """K."""
        return self.picks.size(1)


def problem(neighbors: int = 30, length: int = 128_000, dtype: str = 'float32') -> Problem:
    """Features around 1,000 centres; one query in ten finds its own older feature in the set."""
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(CENTRES, DIM), dim=1)

    def near(rows: Tensor) -> Tensor:
        return F.normalize(rows + 0.7 * F.normalize(torch.randn(rows.shape), dim=1), dim=1)

    queue = NeighborQueue(length, DIM, dtype)
    queue.enqueue(near(centres[torch.randint(CENTRES, (length,))]), torch.arange(length))
    keys = near(centres[torch.randint(CENTRES, (RANKS * BATCH,))])
    ids = length + torch.arange(len(keys))
    ids[::10] = torch.randperm(length)[: len(ids[::10])]
    keys[::10] = near(queue.features[ids[::10]].float())
    picks = torch.cat(
        [queue.search(k, i, neighbors).index for k, i in zip(keys.split(512), ids.split(512))]
    )
    counts = picks[BATCH:].flatten().bincount(minlength=length).int()
    own = keys[:BATCH]
    return Problem(queue, near(own), near(own), keys, ids, picks, counts)


def ours(given: Problem) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The step as mmsnclr does it."""
    loss_module = SNCLRLoss(TEMPERATURE)
    own_key = torch.arange(BATCH)
    log_gamma = torch.tensor(0.0)

    def step():
        y, z = (x.clone().requires_grad_() for x in (given.projection, given.prediction))
        keys = given.keys.clone()  # stands for what arrives
        found = given.queue.search(keys[:BATCH], given.ids[:BATCH], given.neighbors)
        counts = given.queue.count(found).add_(given.other_counts)
        candidates = Candidates(given.queue.features, counts, found.index, found.valid)
        weights = log_positiveness(neighbor_scores(y, candidates), found.valid, log_gamma)
        loss = loss_module(z, keys, own_key, candidates, weights)
        loss.backward()
        return loss.detach(), y.grad, z.grad

    return step


def plain(given: Problem) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """Eq. 2 to 4 as they read, on float32."""
    features = given.queue.features.float()
    set_ids = given.queue.ids
    count, k = len(given.keys), given.neighbors
    # Rows are laid out as key and neighbours of the first instance, of the second, and so on.
    own_columns = torch.arange(BATCH)[:, None] * (k + 1) + torch.arange(k + 1)

    def step():
        y, z = (x.clone().requires_grad_() for x in (given.projection, given.prediction))
        similarity = given.keys[:BATCH] @ features.T
        similarity[given.ids[:BATCH, None] == set_ids] = -torch.inf
        own = similarity.topk(k, dim=1).indices
        if given.queue.features.dtype != torch.float32:
            own = given.picks[:BATCH]  # of a rounded search
        picks = torch.cat([own, given.picks[BATCH:]])
        neighbors = features[picks]
        rows = torch.cat([given.keys[:, None], neighbors], dim=1).view(count * (k + 1), DIM)
        attention = torch.einsum('nd,nkd->nk', y, neighbors[:BATCH]).softmax(dim=1)
        weights = torch.cat([torch.ones(BATCH, 1), attention], dim=1)
        weights = torch.zeros(BATCH, len(rows)).scatter(1, own_columns, weights)
        scores = (z @ rows.T / TEMPERATURE).exp()
        loss = -((weights * scores).sum(dim=1) / scores.sum(dim=1)).log().mean()
        loss.backward()
        return loss.detach(), y.grad, z.grad

    return step


STEPS = {'ours': ours, 'plain': plain}


def check(given: Problem) -> float:
    """Larger relative difference of the loss and of its gradient; stops if it is too large."""
    (loss, *gradient), (expected, *expected_gradient) = ours(given)(), plain(given)()
    pairs = ((loss, expected), (torch.cat(gradient), torch.cat(expected_gradient)))
    error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    if error > RELATIVE_ERROR:
        raise SystemExit(f'loss or gradient differs by {error:.1e}')
    return error


def peak_memory(name: str, neighbors: int, length: int, dtype: str) -> float:
    """Extra resident memory of a step in a process of its own, in MB."""
    code = f'import loss; print(loss.own_peak({name!r}, {neighbors}, {length}, {dtype!r}))'
    command = [sys.executable, '-c', code]
    run = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True)
    return float(run.stdout.split()[-1])


def own_peak(name: str, neighbors: int, length: int, dtype: str) -> float:
    """Extra resident memory of a step in this process, after one to warm up, in MB."""
    step = STEPS[name](problem(neighbors, length, dtype))
    step()
    ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps for itself is not extra
    with open('/proc/self/clear_refs', 'w') as reset:
        reset.write('5')
    before = _status('VmRSS')
    step()
    return (_status('VmHWM') - before) / 1000


def _status(field: str) -> float:
    with open('/proc/self/status') as lines:
        return next(float(line.split()[1]) * 1.024 for line in lines if line.startswith(field))


def received(given: Problem) -> dict[str, float]:
    """Bytes that a rank receives for one view, in MB."""
    with synthetic_peers(RANKS) as ours_received:
        gather_rows(given.keys[:BATCH])
        sum_over_ranks(given.other_counts.clone())
    features = (RANKS - 1) * BATCH * (given.neighbors + 1) * DIM * 4
    return {'ours': ours_received.total() / 1e6, 'plain': features / 1e6}


def row(neighbors: int, length: int, dtype: str, rounds: int) -> dict[str, float]:
    """All figures of one setting."""
    given = problem(neighbors, length, dtype)
    error = check(given)
    against = given if dtype == 'float32' else problem(neighbors, length)
    times = in_turns({'ours': ours(given), 'plain': plain(against)}, rounds)
    traffic = received(given)
    tensors = {}
    for name, make in STEPS.items():
        with PeakMemory() as memory:
            make(given)()
        tensors[name] = memory.peak / 1e6
    peaks = {name: peak_memory(name, neighbors, length, dtype) for name in STEPS}
    return dict(
        K=neighbors,
        length=length,
        set=dtype,
        error=f'{error:.0e}',
        ms=f'{1e3 * times["ours"]:.0f}',
        plain_ms=f'{1e3 * times["plain"]:.0f}',
        time=f'1/{times["plain"] / times["ours"]:.1f}',
        tensors_MB=f'{tensors["ours"]:.0f}',
        plain_tensors_MB=f'{tensors["plain"]:.0f}',
        resident_MB=f'{peaks["ours"]:.0f}',
        plain_resident_MB=f'{peaks["plain"]:.0f}',
        memory=f'1/{peaks["plain"] / peaks["ours"]:.1f}',
        received_MB=f'{traffic["ours"]:.1f}',
        plain_received_MB=f'{traffic["plain"]:.0f}',
    )


def chosen_alike(neighbors: int = 30, length: int = 128_000) -> float:
    """Share of neighbours that a bfloat16 set chooses as a float32 set does."""
    exact, rounded = (problem(neighbors, length, d).picks for d in ('float32', 'bfloat16'))
    return float((exact[:, :, None] == rounded[:, None]).any(dim=2).float().mean())


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=9)
    args = parser.parse_args()
    settings = [(30, 128_000, dtype) for dtype in ('float32', 'bfloat16')]
    settings += [(k, 128_000, 'float32') for k in (5, 10, 60)]
    settings += [(30, length, 'float32') for length in (16_000, 64_000)]
    rows = [row(*setting, args.rounds) for setting in settings]
    print_table(list(rows[0]), [list(r.values()) for r in rows])
    print(f'\nchosen alike by a bfloat16 and a float32 set: {chosen_alike():.2%}')
