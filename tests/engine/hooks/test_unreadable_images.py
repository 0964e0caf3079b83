"""Images that are damaged or gone do not end a training."""

import shutil
import time

import pytest
from helpers import run_with

from mmsnclr.engine.hooks import UnreadableImagesHook

VIEWS = [
    dict(type='AugmentedViews', views=[dict(size=32), dict(size=32)]),
    dict(type='PackInputs'),
]


def run_on_a_copy(digits, tmp_path, **options):
    """Folder of images that may be damaged, and a run over them."""
    data = tmp_path / 'data'
    shutil.copytree(digits / 'unlabelled', data)
    options |= {
        'train_dataloader.dataset.data_root': str(data),
        'train_dataloader.dataset.pipeline': VIEWS,
    }
    return data, run_with(data.parent, tmp_path / 'run', [], **options)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_damaged_and_vanished_images_are_replaced_and_listed(digits, tmp_path, num_workers):
    options = {'train_dataloader.num_workers': num_workers}
    data, runner = run_on_a_copy(digits, tmp_path, **options)
    bad = sorted(path for path in data.rglob('*.png'))[:3]
    runner.train_dataloader.dataset.full_init()
    bad[0].unlink()
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    bad[2].write_text('not an image')
    runner.train()
    listed = (tmp_path / 'run' / 'unreadable_images_rank0.csv').read_text()
    assert all(str(path) in listed for path in bad)
    assert runner.model.queue._enqueued == 16 * 3 * 6


def test_too_many_damaged_images_end_the_run(digits, tmp_path):
    data, runner = run_on_a_copy(digits, tmp_path)
    for path in sorted(data.rglob('*.png'))[::2]:
        path.write_bytes(b'')
    with pytest.raises(RuntimeError, match=r'could not be read, more than .*max_share=0.01'):
        runner.train()


def test_a_list_that_cannot_be_written_is_said_once_and_ends_nothing(digits, tmp_path):
    data, runner = run_on_a_copy(digits, tmp_path)
    for path in sorted(data.rglob('*.png'))[:2]:
        path.write_bytes(b'')
    (tmp_path / 'run' / 'unreadable_images_rank0.csv').mkdir()
    runner.train()
    (log,) = (tmp_path / 'run').rglob('*.log')
    assert log.read_text().count('Another image takes the place of') == 2  # each is said once
    assert log.read_text().count('cannot be listed in') == 1


def test_failures_of_the_last_batch_are_listed(digits, tmp_path):
    runner = run_with(digits, tmp_path, [], **{'train_dataloader.dataset.pipeline': VIEWS})
    hook = next(hook for hook in runner.hooks if isinstance(hook, UnreadableImagesHook))
    hook.before_train(runner)
    hook._failures.put(('late.png', 'it is cut'))
    while hook._failures.empty():  # a thread puts it in
        time.sleep(0.01)
    hook.after_train(runner)
    assert 'late.png' in (tmp_path / 'unreadable_images_rank0.csv').read_text()
    assert hook.count == 1


def test_a_resumed_run_goes_on_counting_unreadable_images(digits, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(digits / 'unlabelled', data)
    sorted(data.rglob('*.png'))[0].write_bytes(b'')
    counts = []
    for epochs in (2, 3):
        options = {
            'train_dataloader.dataset.data_root': str(data),
            'train_dataloader.dataset.pipeline': VIEWS,
            'default_hooks.unreadable_images.max_share': 1.0,
            'train_cfg.max_epochs': epochs,
            'resume': bool(counts),
        }
        runner = run_with(data.parent, tmp_path / 'run', [], **options)
        runner.train()
        hook = next(hook for hook in runner.hooks if isinstance(hook, UnreadableImagesHook))
        counts.append((hook.count, hook.seen))
    assert counts[0][0] >= 2 and counts[1][0] > counts[0][0]
    assert [seen for _, seen in counts] == [16 * 6 * 2, 16 * 6 * 3]
    listed = (tmp_path / 'run' / 'unreadable_images_rank0.csv').read_text().splitlines()
    assert len(listed) == counts[1][0]
