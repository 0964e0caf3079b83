"""`mmsnclr pretrain`: begun, interrupted, and gone on with, under other circumstances."""

import re
import shutil
from inspect import unwrap
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mmengine.config import Config

from mmsnclr.api.pretrain import pretrain
from mmsnclr.checkpoints import Stored
from mmsnclr.cli import main
from mmsnclr.datasets.views import AugmentedViews
from mmsnclr.engine import build_runner

SMALL = {
    'model.backbone.stem_channels': 16,
    'model.backbone.base_channels': 16,
    'model.neck.in_channels': 128,
    'model.neck.hid_channels': 32,
    'model.head.predictor.hid_channels': 32,
    'default_hooks.checkpoint.interval': 1,
}
OPTIONS = [f'--cfg-options={key}={value}' for key, value in SMALL.items()]
SETTINGS = ['--backbone', 'r18', '--epochs', 2, '--batch', 32, '--workers', 0, *OPTIONS]


def command(*arguments):
    return CliRunner().invoke(main, ['pretrain', *map(str, arguments)])


def run(images, out, **settings):
    settings = dict(backbone='r18', epochs=2, batch=32, workers=0, cfg_options=SMALL) | settings
    return pretrain([images], out, **settings)


@pytest.fixture(scope='module')
def pictures(digits, tmp_path_factory):
    """A folder of 96 pictures that may be changed after the runs over it."""
    return Path(shutil.copytree(digits / 'unlabelled', tmp_path_factory.mktemp('p') / 'pictures'))


@pytest.fixture(scope='module')
def halfway(pictures, tmp_path_factory):
    """A run of which one epoch of two is done."""
    out = tmp_path_factory.mktemp('halfway') / 'run'
    run(pictures, out).unlink()
    return out


def test_the_folder_of_a_classifier_is_not_written_into(pictures, tmp_path):
    text = "model = dict(type='ImageClassifier')\narguments = dict(images='photos')"
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(ValueError, match='is not of a pretraining: choose another --out'):
        run(pictures, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']


def test_a_run_may_begin_where_its_initial_weights_lie(pictures, halfway, tmp_path):
    weights = shutil.copy(halfway / 'backbone.pth', tmp_path / 'weights.pth')
    assert run(pictures, tmp_path, init=weights, epochs=1) == tmp_path / 'epoch_1.pth'


@pytest.fixture
def begun(halfway, tmp_path):
    return Path(shutil.copytree(halfway, tmp_path / 'run'))


def test_what_concerns_the_machine_is_free_on_resuming(begun):
    workers = 'train_dataloader.num_workers=1'
    result = command('--out', begun, '--resume', '--amp=off', '--cfg-options', workers)
    assert result.exit_code == 0, (result.output, result.exception)
    used, written = Stored.read(begun / 'epoch_2.pth').config, Config.fromfile(begun / 'config.py')
    assert (used.optim_wrapper.type, used.train_dataloader.num_workers) == ('OptimWrapper', 1)
    assert written.optim_wrapper.type != 'OptimWrapper'
    assert written.train_dataloader.num_workers == 0


def test_loading_processes_are_free_on_resuming(begun):
    result = command('--out', begun, '--resume', '--workers', 1)
    assert result.exit_code == 0, (result.output, result.exception)
    used = Stored.read(begun / 'epoch_2.pth').config
    assert used.train_dataloader.num_workers == 1
    assert used.optim_wrapper.type == Config.fromfile(begun / 'config.py').optim_wrapper.type


def test_an_edited_config_is_gone_on_with(begun):
    text = (begun / 'config.py').read_text()
    text, count = re.subn(r'\blr=', 'lr=0.5 * ', text)
    assert count == 1
    (begun / 'config.py').write_text(text)
    command('--out', begun, '--resume')
    group = Stored.read(begun / 'epoch_2.pth').content['optimizer']['param_groups'][0]
    assert group['initial_lr'] == Config.fromfile(begun / 'config.py').optim_wrapper.optimizer.lr


def test_a_trial_by_other_settings_leaves_the_config_of_a_run_as_it_is(begun, tmp_path):
    before = (begun / 'config.py').read_bytes()
    cfg = Config.fromfile(begun / 'config.py')
    cfg.model.head.neighbors, cfg.work_dir = 7, str(begun)
    build_runner(cfg)
    assert (begun / 'config.py').read_bytes() == before
    cfg.work_dir = str(tmp_path / 'elsewhere')
    build_runner(cfg)
    assert Config.fromfile(tmp_path / 'elsewhere/config.py').model.head.neighbors == 7


def test_images_that_are_gone_are_left_out_and_listed(begun, pictures, tmp_path):
    aside = [pictures / f'{number:05d}.png' for number in (3, 50)]
    moved = [path.rename(tmp_path / path.name) for path in aside]
    try:
        result = command('--out', begun, '--resume')
        assert result.exit_code == 0, (result.output, result.exception)
        assert '2 images are no longer there' in result.output
        listed = (begun / 'unreadable_images_rank0.csv').read_text().splitlines()
        assert listed == [f'{path},no longer there' for path in aside]
    finally:
        for path, home in zip(moved, aside):
            path.rename(home)


def test_a_folder_that_is_gone_is_no_few_images(begun, pictures):
    away = pictures.rename(pictures.with_name('away'))
    try:
        result = command('--out', begun, '--resume')
    finally:
        away.rename(pictures)
    assert result.exit_code == 1 and '96 of the 96 images' in result.output
    assert 'put them back' in result.output


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('modle.head.neighbors=3', 'a config has no modle; it has'),
        ('model.head.neighbours=3', 'SNCLRHead'),
        ('default_hooks.logger.intervall=3', 'intervall'),
        ('default_hooks.checkpoint.intervall=3', 'a checkpoint hook has no setting intervall'),
        ('custom_hooks.7.warmup_epochs=3', 'custom_hooks'),
        ('model.head.type=Nothing', 'Nothing is not in the'),
        ('model.neck.in_channels=99', 'cannot be used'),
        ('model.head.neighbors=[1,2', 'mbalanced brackets'),
        ('train_cfg=dict(max_epochs=3)', 'pass epochs instead of train_cfg.max_epochs'),
        ('model.head.loss=dict(temprature=0.1)', 'temprature'),
    ],
)
def test_a_wrong_setting_is_named_before_the_images_are_read(pictures, tmp_path, option, message):
    result = command(pictures, '--out', tmp_path / 'run', *SETTINGS, '--cfg-options', option)
    assert result.exit_code and isinstance(result.exception, SystemExit)
    assert message in result.output
    assert 'images found' not in result.output and not (tmp_path / 'run').exists()


def test_a_run_without_a_log_trains(pictures, tmp_path):
    options = SMALL | {'default_hooks.logger': None}
    assert run(pictures, tmp_path / 'run', epochs=1, cfg_options=options).is_file()


def fail(error):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


def test_what_left_no_checkpoint_can_be_started_again(pictures, tmp_path, monkeypatch):
    # Neither spaces nor what mmengine puts values in for may be in the way.
    out = tmp_path / 'my {{ fileBasename }}'
    arguments = [pictures, '--out', out, *SETTINGS, '--cfg-options', 'model.queue.sync=false']
    for part in ('scan_into', 'seconds_per_step'):
        with monkeypatch.context() as patch:
            patch.setitem(unwrap(pretrain).__globals__, part, fail(KeyboardInterrupt()))
            assert 'start again by the same command' in command(*arguments).output
    with monkeypatch.context() as patch:
        patch.setitem(unwrap(pretrain).__globals__, 'build_runner', fail(OSError('no room')))
        assert command(*arguments).exit_code == 1
    assert (out / 'config.py').is_file()
    result = command(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"mmsnclr report '{out}'" in result.output
    assert Config.fromfile(out / 'config.py').model.queue.sync is False
    assert Config.fromfile(out / 'config.py').work_dir == str(out)


def test_what_cannot_be_loaded_is_not_blamed_on_the_backbone(pictures, tmp_path, monkeypatch):
    text = 'unable to open shared memory object </torch_1_2> in read-write mode'
    monkeypatch.setattr(AugmentedViews, 'transform', fail(RuntimeError(text)))
    with pytest.raises(OSError, match=r'/dev/shm.*--workers .*--shm-size.*torch_1_2'):
        run(pictures, tmp_path / 'run')
    monkeypatch.setattr(AugmentedViews, 'transform', fail(RuntimeError('a decoder is missing')))
    with pytest.raises(OSError, match='images cannot be loaded: a decoder is missing'):
        run(pictures, tmp_path / 'run')


def test_the_weights_of_a_teacher_become_the_initialisation(halfway, pictures, tmp_path):
    weights = Stored.read(halfway / 'epoch_1.pth').weights
    teacher = {k: v for k, v in weights.items() if k.startswith('backbone.')}
    student = {key: torch.zeros_like(value) for key, value in teacher.items()}
    networks = dict(student=student, teacher=teacher)
    for content in (dict(student=student, teacher=teacher, epoch=3), dict(networks=networks)):
        torch.save(content, tmp_path / 'dino.pth')
        run(pictures, tmp_path / f'run{len(content)}', init=tmp_path / 'dino.pth', epochs=1)
        filled = Stored.read(tmp_path / f'run{len(content)}/init/backbone.pth').weights
        assert all(torch.equal(v, teacher[f'backbone.{k}']) for k, v in filled.items())
