"""Nothing is lost when a run is interrupted."""

import random
import re
import shutil
import signal

import pytest
from helpers import run_ranks
from interruptions import MOMENTS, STEPS, Kill, assert_same_state, steps, train


@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    """The uninterrupted runs, by number of processes."""
    runs = {}

    def run(ranks):
        if ranks not in runs:
            runs[ranks] = tmp_path_factory.mktemp(f'whole{ranks}')
            assert run_ranks(train, ranks, digits, runs[ranks]) == [0] * ranks
        return runs[ranks]

    return run


def assert_resumes_exactly(whole, digits, work_dir, ranks, kill):
    codes = run_ranks(train, ranks, digits, work_dir, kill)
    assert codes[kill.rank] == -signal.SIGKILL and 0 not in codes
    assert run_ranks(lambda: train(digits, work_dir, resume=True), ranks) == [0] * ranks
    for rank in range(ranks):
        assert steps(work_dir, rank) == steps(whole(ranks), rank)
    last = f'iter_{STEPS}.pth'
    assert_same_state(work_dir / last, whole(ranks) / last)
    assert sorted(path.name for path in work_dir.glob('*.pth*')) == ['iter_16.pth', last]


@pytest.mark.parametrize(
    ('ranks', 'kill'),
    [
        (1, Kill(9, 'enqueue')),
        (1, Kill(11, 'write')),
        (2, Kill(13, 'backward', rank=1)),
    ],
    ids=lambda x: getattr(x, 'moment', str(x)),
)
def test_a_killed_run_is_resumed_bit_for_bit(whole, digits, tmp_path, ranks, kill):
    assert_resumes_exactly(whole, digits, tmp_path, ranks, kill)


@pytest.mark.slow
@pytest.mark.parametrize('trial', range(20))
def test_a_run_killed_at_any_moment_is_resumed_bit_for_bit(whole, digits, tmp_path, trial):
    draw = random.Random(trial)
    ranks, moment = 1 + trial // 10, MOMENTS[trial % len(MOMENTS)]
    saving = moment in ('write', 'rename', 'record', 'remove')
    step = draw.randrange(8 if moment == 'remove' else 0, STEPS)
    kill = Kill(step, moment, rank=0 if saving else draw.randrange(ranks))
    assert_resumes_exactly(whole, digits, tmp_path, ranks, kill)
