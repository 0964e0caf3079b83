"""Which checkpoint a run goes on from, and which it refuses."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import small_run
from mmengine.config import Config

from mmsnclr.engine import build_runner
from mmsnclr.engine.checkpoint import newest_checkpoint, replacing, stored_config


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A work directory with a checkpoint of each of three epochs."""
    folder = tmp_path_factory.mktemp('trained')
    build_runner(
        small_run(digits, folder, **{'default_hooks.checkpoint.max_keep_ckpts': -1})
    ).train()
    return folder


@pytest.fixture
def work_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / 'run')


def resume(digits, work_dir, **options):
    runner = build_runner(small_run(digits, work_dir, resume=True, **options))
    runner.train()
    return runner


def change(path, function):
    checkpoint = torch.load(path, weights_only=False)
    function(checkpoint)
    torch.save(checkpoint, path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_checkpoint_is_found_whatever_the_record_says(work_dir):
    assert newest_checkpoint(work_dir) == (str(work_dir / 'epoch_3.pth'), {})
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    assert newest_checkpoint(work_dir)[0] == str(work_dir / 'epoch_3.pth')
    (work_dir / 'last_checkpoint').unlink()
    assert newest_checkpoint(work_dir)[0] == str(work_dir / 'epoch_3.pth')
    assert newest_checkpoint(work_dir / 'nothing') == (None, {})


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), 'not written to its end'),
        (lambda path: path.write_bytes(b''), 'not written to its end'),
        (flip_a_bit, 'is damaged'),
        (lambda path: change(path, lambda x: x.pop('optimizer')), 'lacks optimizer'),
        (lambda path: path.rename(f'{path}.tmp'), 'half-written'),
    ],
    ids=['cut', 'empty', 'flipped', 'partial', 'temporary'],
)
def test_an_incomplete_checkpoint_is_passed_over_with_the_reason(work_dir, damage, reason):
    damage(work_dir / 'epoch_3.pth')
    newest, skipped = newest_checkpoint(work_dir)
    assert newest == str(work_dir / 'epoch_2.pth')
    ((path, why),) = skipped.items()
    assert Path(path).name.startswith('epoch_3.pth') and reason in why


def test_the_log_says_which_checkpoint_was_passed_over(digits, work_dir, capfd):
    flip_a_bit(work_dir / 'epoch_3.pth')
    runner = resume(digits, work_dir, **{'train_cfg.max_epochs': 2})
    assert runner.iter == 12
    assert re.search(r'Not resumed from \S+epoch_3\.pth: .*damaged', ''.join(capfd.readouterr()))


def test_nothing_is_trained_over_a_folder_of_broken_checkpoints(digits, work_dir):
    for path in work_dir.glob('*.pth'):
        path.write_bytes(b'broken')
    with pytest.raises(ValueError, match=r'no checkpoint in .* can be resumed from; move'):
        resume(digits, work_dir)


def test_a_named_checkpoint_that_is_damaged_is_refused(digits, work_dir):
    flip_a_bit(work_dir / 'epoch_3.pth')
    with pytest.raises(ValueError, match=r'epoch_3\.pth is damaged'):
        resume(digits, work_dir, load_from=str(work_dir / 'epoch_3.pth'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'model.queue.length': 32},
            r'queue\.features is \(64, 16\) in the checkpoint, \(32, 16\) in the model',
        ),
        (
            {
                'model.queue.dim': 8,
                'model.neck.out_channels': 8,
                'model.head.predictor.in_channels': 8,
                'model.head.predictor.out_channels': 8,
            },
            r'\(32, 16\) in the checkpoint, \(32, 8\) in the model',
        ),
        (
            {'model.backbone.base_channels': 8, 'model.neck.in_channels': 64},
            r'backbone.* is \(16,.*\) in the checkpoint, \(8,.*\) in the model.* more',
        ),
        ({'model.queue.sync': False}, r'queue\.features is \(64, 16\) in the .*, missing in'),
        ({'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=1e-3)}, 'SGD.*AdamW'),
    ],
    ids=['length', 'dim', 'architecture', 'kind_of_set', 'optimiser'],
)
def test_a_checkpoint_of_another_run_is_refused_with_both_values(digits, trained, options, message):
    with pytest.raises(ValueError, match=message):
        resume(digits, trained, **options)


@pytest.mark.parametrize('part', ['optimizer', 'message_hub', 'meta'])
def test_a_partial_checkpoint_is_refused(digits, work_dir, part):
    path = work_dir / 'epoch_3.pth'
    change(path, lambda checkpoint: checkpoint.pop(part))
    with pytest.raises(ValueError, match=f'lacks {part}.*load_from'):
        resume(digits, work_dir, load_from=str(path))


def test_a_set_that_is_missing_is_refused(digits, work_dir):
    def drop(checkpoint):
        for name in [name for name in checkpoint['state_dict'] if name.startswith('queue.')]:
            del checkpoint['state_dict'][name]

    change(work_dir / 'epoch_3.pth', drop)
    with pytest.raises(ValueError, match=r'queue\.enqueued is missing in the checkpoint, \(\) in'):
        resume(digits, work_dir)


def test_other_neighbors_and_more_epochs_may_be_tried_from_a_checkpoint(digits, work_dir):
    runner = resume(digits, work_dir, **{'model.head.neighbors': 8, 'train_cfg.max_epochs': 4})
    assert runner.iter == 24


def test_the_config_in_a_checkpoint_is_read_back(digits, trained):
    config = small_run(digits, trained)
    checkpoint = torch.load(trained / 'epoch_3.pth', weights_only=False)
    assert stored_config(checkpoint).model == config.model
    assert stored_config(checkpoint).train_dataloader == config.train_dataloader
    assert stored_config(dict(meta={})) is None
    odd = dict(given={'model.head.neighbors': 3, 'set length': dict(inner=[-1.5, None, (1, 'a')])})
    read = stored_config(dict(meta=dict(cfg=Config(odd).pretty_text)))
    assert read.to_dict() == Config(odd).to_dict()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(OSError), replacing(str(path)) as temporary:
        Path(temporary).write_text('ne')
        raise OSError('disk full')
    assert path.read_text() == 'old' and [p.name for p in tmp_path.iterdir()] == ['file']
    with replacing(str(path)) as temporary:
        Path(temporary).write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
