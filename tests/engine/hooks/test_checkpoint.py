"""Which checkpoint a run goes on from, and which it refuses."""

import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from helpers import small_run
from mmengine.config import Config
from mmengine.hooks import Hook

from mmsnclr.checkpoints import Stored
from mmsnclr.checkpoints.choosing import newest_checkpoint
from mmsnclr.checkpoints.writing import replacing
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks import checkpoint as checkpoint_hook


def stored_config(content):
    return Stored(Path('x.pth'), content).config


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
    assert newest_checkpoint(work_dir) == (str(work_dir / 'epoch_3.pth'), {}, [])
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    assert newest_checkpoint(work_dir)[0] == str(work_dir / 'epoch_3.pth')
    (work_dir / 'last_checkpoint').unlink()
    assert newest_checkpoint(work_dir)[0] == str(work_dir / 'epoch_3.pth')
    assert newest_checkpoint(work_dir / 'nothing') == (None, {}, [])


def test_the_newest_checkpoint_does_not_depend_on_time_zones(work_dir):
    change(work_dir / 'epoch_1.pth', lambda x: x['meta'].update(time='20990101_000000'))
    assert newest_checkpoint(work_dir)[0] == str(work_dir / 'epoch_3.pth')
    change(work_dir / 'epoch_1.pth', lambda x: x['meta'].update(saved=time.time()))
    assert newest_checkpoint(work_dir)[0] == str(work_dir / 'epoch_1.pth')


def test_a_damaged_index_does_not_hide_good_checkpoints(work_dir):
    content = bytearray((work_dir / 'epoch_3.pth').read_bytes())
    method = content.rindex(b'PK\x01\x02') + 10
    content[method : method + 2] = b'\x63\x00'  # a compression that nobody knows
    (work_dir / 'epoch_3.pth').write_bytes(content)
    newest, skipped, _ = newest_checkpoint(work_dir)
    assert newest == str(work_dir / 'epoch_2.pth') and len(skipped) == 1


@pytest.mark.parametrize(
    'text',
    ['a = dict(b=1', 'a = {[]: 1}', 'filename = 1', 'a = f()', f'a = {"[" * 999}', 'a = dict(**x)'],
    ids=range(6),
)
def test_a_config_that_is_no_plain_values_is_refused(text):
    with pytest.raises(ValueError, match='config is not plain values'):
        stored_config(dict(meta=dict(cfg=text)))


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), 'not written to its end'),
        (lambda path: path.write_bytes(b''), 'not written to its end'),
        (flip_a_bit, 'is damaged'),
        (lambda path: change(path, lambda x: x.pop('optimizer')), 'lacks optimizer'),
        (lambda path: change(path, lambda x: x.update(meta=None)), 'how far training was'),
        (lambda path: change(path, lambda x: x['meta'].pop('iter')), 'how far training was'),
        (
            lambda path: change(path, lambda x: x['meta'].update(rank_files=2)),
            'epoch_3.pth.queue0 is missing',
        ),
        (lambda path: path.rename(f'{path}.tmp'), 'half-written'),
    ],
    ids=['cut', 'empty', 'flipped', 'partial', 'no meta', 'no iter', 'no set', 'temporary'],
)
def test_an_incomplete_checkpoint_is_passed_over_with_the_reason(work_dir, damage, reason):
    damage(work_dir / 'epoch_3.pth')
    newest, skipped, _ = newest_checkpoint(work_dir)
    assert newest == str(work_dir / 'epoch_2.pth')
    ((path, why),) = skipped.items()
    assert Path(path).name.startswith('epoch_3.pth') and reason in why


def test_the_log_says_which_checkpoint_was_passed_over(digits, work_dir, capfd):
    flip_a_bit(work_dir / 'epoch_3.pth')
    runner = resume(digits, work_dir, **{'train_cfg.max_epochs': 2})
    assert runner.iter == 12
    assert re.search(r'Not resumed from \S+epoch_3\.pth: .*damaged', ''.join(capfd.readouterr()))


@pytest.mark.parametrize(
    'damage',
    [
        lambda path: path.write_bytes(b'broken'),
        lambda path: change(path, lambda x: x.pop('optimizer')),
        lambda path: change(path, lambda x: x.pop('message_hub')),
    ],
    ids=['broken', 'no optimizer', 'no message_hub'],
)
def test_nothing_is_trained_over_a_folder_of_broken_checkpoints(digits, work_dir, damage):
    for path in work_dir.glob('*_*.pth'):
        damage(path)
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
    assert stored_config(dict(meta={})) is stored_config(dict(meta=None)) is None
    odd = dict(given={'model.head.neighbors': 3, 'set length': dict(inner=[-1.5, None, (1, 'a')])})
    read = stored_config(dict(meta=dict(cfg=Config(odd).pretty_text)))
    assert read.to_dict() == Config(odd).to_dict()


def test_a_checkpoint_is_complete_without_the_record_of_it(digits, tmp_path):
    (tmp_path / 'last_checkpoint').mkdir()  # so that it cannot be replaced
    run = small_run(digits, tmp_path, **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    build_runner(run).train()
    assert [path.name for path in tmp_path.glob('*_*.pth')] == ['epoch_3.pth']
    (log,) = tmp_path.glob('*/*.log')
    assert 'last_checkpoint could not be written' in log.read_text()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(OSError, match='disk full'), replacing(str(path)) as temporary:
        Path(temporary).write_text('ne')
        raise OSError('disk full')
    assert path.read_text() == 'old' and [p.name for p in tmp_path.iterdir()] == ['file']
    with replacing(str(path)) as temporary:
        Path(temporary).write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'


class Clock:
    """A clock that moves by ten minutes at the end of each epoch."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    time = staticmethod(time.time)


class Watch(Hook):
    """Moves the clock, and records which checkpoints there are after each epoch."""

    priority = 'VERY_HIGH'

    def __init__(self, clock, folder):
        self.clock, self.folder, self.there = clock, folder, []

    def before_train_epoch(self, runner):
        self.there.append({path.stem for path in self.folder.glob('*_*.pth')})

    def after_train_epoch(self, runner):
        self.clock.now += 600


@pytest.mark.parametrize('interval', [4, pytest.param(100, marks=pytest.mark.slow)])
def test_what_half_an_hour_has_trained_is_saved(digits, tmp_path, monkeypatch, interval):
    clock = Clock()
    monkeypatch.setattr(checkpoint_hook, 'time', clock)
    settings = dict(interval=interval, minutes=25, max_keep_ckpts=3)
    options = {'default_hooks.checkpoint': settings, 'train_cfg.max_epochs': 9}
    runner = build_runner(small_run(digits, tmp_path, **options))
    watch = Watch(clock, tmp_path)
    runner.register_hook(watch)
    runner.train()
    # 6 iterations an epoch; the clock starts again with each checkpoint.
    none, first = [set()] * 3, {'iter_18'}
    expected = {
        4: [*none, first, *[{'epoch_4'}] * 3, {'epoch_4', 'iter_42'}, {'epoch_4', 'epoch_8'}],
        100: [*none, *[first] * 3, *[{'iter_36'}] * 3],
    }[interval]
    assert watch.there == expected


def test_a_checkpoint_between_is_gone_on_from_to_the_bit(digits, tmp_path):
    whole, part = tmp_path / 'whole', tmp_path / 'part'
    build_runner(small_run(digits, whole)).train()
    settings = dict(interval=100, minutes=0)
    options = {'default_hooks.checkpoint': settings, 'param_scheduler.end': 3}
    runner = build_runner(small_run(digits, part, **options))
    runner.register_hook(Stop(2))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert [path.name for path in part.glob('*_*.pth')] == ['iter_12.pth']
    resume(digits, part)
    ends = [torch.load(f / 'epoch_3.pth', weights_only=False) for f in (whole, part)]
    torch.testing.assert_close(*(end['state_dict'] for end in ends), rtol=0, atol=0)


def test_what_could_not_take_the_place_of_a_checkpoint_between_leaves_it_to_the_next(
    digits, tmp_path, monkeypatch
):
    save = checkpoint_hook.AtomicCheckpointHook._save_file

    def save_but_once(hook, runner, name, meta):
        if name == 'iter_12.pth':
            raise OSError('No space left on device')
        save(hook, runner, name, meta)

    monkeypatch.setattr(checkpoint_hook.AtomicCheckpointHook, '_save_file', save_but_once)
    settings = dict(interval=100, minutes=0, save_last=False)
    build_runner(small_run(digits, tmp_path, **{'default_hooks.checkpoint': settings})).train()
    assert [path.name for path in tmp_path.glob('*_*.pth')] == ['iter_18.pth']


class Stop(Hook):
    """Ends the training when an epoch begins."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            raise KeyboardInterrupt
