"""`mmsnclr pretrain`: from a folder of images to a backbone."""

import csv
import json
import os
import re
import shutil
import signal
from inspect import unwrap
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import run_tool
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from PIL import Image

from mmsnclr.api.pretrain import pretrain
from mmsnclr.api.report import report
from mmsnclr.backbones import read_backbone
from mmsnclr.checkpoints import Stored
from mmsnclr.cli import main
from mmsnclr.datasets.decoding import read_image
from mmsnclr.engine.hooks import ViewSeedHook
from mmsnclr.engine.hooks.preemption import PREEMPTED
from mmsnclr.engine.run import read_encoder
from mmsnclr.evaluation.representation import represent_images

SMALL = {
    'model.backbone.stem_channels': 16,
    'model.backbone.base_channels': 16,
    'model.neck.in_channels': 128,
    'model.neck.hid_channels': 32,
    'model.head.predictor.hid_channels': 32,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
}
OPTIONS = [f'--cfg-options={key}={value}' for key, value in SMALL.items()]


def command(*arguments):
    return CliRunner().invoke(main, ['pretrain', *map(str, arguments)])


def run(images, out, **settings):
    settings = dict(backbone='r18', epochs=2, batch=32, workers=0, cfg_options=SMALL) | settings
    return pretrain([images], out, **settings)


def log(out):
    (path,) = Path(out).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def given(digits):
    """A command line without --out."""
    settings = ['--backbone', 'r18', '--epochs', 2, '--batch', 16, '--workers', 0, *OPTIONS]
    return [digits / 'labelled' / 'train', '--labels', 'folders', *settings]


@pytest.fixture(scope='module')
def finished(given, tmp_path_factory):
    """A run by the command line, and what it printed."""
    out = tmp_path_factory.mktemp('finished') / 'run'
    result = command(*given, '--out', out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_a_folder_becomes_a_backbone_and_the_next_verbs_are_named(finished):
    out, printed = finished
    assert (out / 'epoch_2.pth').is_file()
    assert (out / 'near_duplicates.csv').read_text().startswith('group,path')
    for verb in ('report', 'neighbors', 'detect'):
        assert f'mmsnclr {verb}' in printed
    assert f'The backbone is in {out / "backbone.pth"}' in printed
    assert f'--backbone {out / "backbone.pth"} --out DIR' in printed


def test_the_newest_backbone_lies_beside_the_checkpoints_alone(finished, tmp_path):
    out, _ = finished
    saved = torch.load(out / 'epoch_2.pth', weights_only=False)
    plain = torch.load(out / 'backbone.pth', weights_only=True)
    names = {key for key in saved['state_dict'] if key.startswith('backbone.')}
    assert plain['state_dict'].keys() == names and plain.keys() == {'state_dict', 'meta'}
    assert all(v.equal(saved['state_dict'][k]) for k, v in plain['state_dict'].items())
    trained = read_backbone(Stored.read(out / 'backbone.pth'))
    assert trained.edge == 64 and plain['meta']['source'] == 'epoch_2.pth'
    # A run that ended before there was such a file gets it where it is asked to go on.
    copy = shutil.copytree(out, tmp_path / 'copy')
    (copy / 'backbone.pth').unlink()
    assert command('--out', copy, '--resume').exit_code == 0
    assert read_backbone(Stored.read(copy / 'backbone.pth')).cfg == trained.cfg


def test_the_settings_are_printed_with_their_reasons_and_written(finished):
    out, printed = finished
    cfg = Config.fromfile(out / 'config.py')
    assert cfg.model.queue.length == 60 and cfg.model.head.neighbors == 2
    assert 'set length' in printed and 'all of them up to 2,048' in printed
    assert re.search(r'views +gray  no jitter of .*epochs +2  as you chose', printed, re.DOTALL)
    assert (cfg.train_cfg.max_epochs, cfg.sync_bn) == (2, 'torch')
    first, second = cfg.train_dataloader.dataset.pipeline[0].views
    assert (first.size, second.solarize_prob) == (64, 0)  # as the pictures
    assert 'view_recall: ' in printed and 'queue_fill: ' not in printed


@pytest.mark.slow
def test_the_training_tool_repeats_the_run(finished, tmp_path):
    out, _ = finished
    result = run_tool('tools/train.py', str(out / 'config.py'), '--work-dir', str(tmp_path))
    assert result.returncode == 0, result.stderr
    losses = [[line['loss'] for line in log(folder)] for folder in (out, tmp_path)]
    assert len(losses[0]) == 6 and losses[0] == losses[1]


def test_an_existing_run_is_not_touched_without_being_asked_to(digits, finished):
    out, _ = finished
    before = (out / 'config.py').read_bytes()
    result = command(digits / 'unlabelled', '--out', out)
    assert result.exit_code == 1
    assert 'pass --resume to continue it, or another --out' in result.output
    assert (out / 'config.py').read_bytes() == before


def test_a_finished_run_is_left_as_it_is(given, finished, monkeypatch):
    out, _ = finished
    before = sorted(out.rglob('*'))
    # The images may be named as before, or otherwise.
    monkeypatch.chdir(given[0].parent)
    result = command(f'{given[0].name}/', '--out', out, '--resume')
    assert result.exit_code == 0 and 'is at its end already' in result.output
    assert str(out / 'backbone.pth') in result.output and sorted(out.rglob('*')) == before


def test_other_settings_on_resuming_are_refused(finished):
    out, _ = finished
    result = command('--out', out, '--resume', '--epochs', 5)
    assert result.exit_code == 1
    assert 'epochs=5 differs from 2, with which the run' in result.output


def test_a_run_interrupted_by_ctrl_c_is_continued_exactly(given, finished, tmp_path, monkeypatch):
    def interrupt(hook, runner):
        before_train_epoch(hook, runner)
        if runner.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before_train_epoch, out = ViewSeedHook.before_train_epoch, tmp_path / 'run'
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with monkeypatch.context() as patch:
        patch.setattr(ViewSeedHook, 'before_train_epoch', interrupt)
        result = command(*given, '--out', out)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert result.exit_code == PREEMPTED
    assert f'continue with: mmsnclr pretrain --out {out} --resume' in result.output
    assert {path.name for path in out.glob('*_*.pth')} == {'epoch_1.pth', 'iter_4.pth'}
    # Neither the images nor the settings have to be given again, and nothing is scanned.
    result = command('--out', out, '--resume')
    assert result.exit_code == 0, (result.output, result.exception)
    assert 'Scanning' not in result.output and f'from {out}/iter_4.pth' in result.output
    for name in ('epoch_2.pth', 'backbone.pth'):  # the latter follows the resumed run
        expected, actual = weights(finished[0] / name), weights(out / name)
        assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_a_setting_that_does_not_exist_is_named(given, tmp_path):
    result = command(*given, '--out', tmp_path, '--cfg-options', 'model.head.neighbours=10')
    assert result.exit_code == 1
    assert "'model.head.neighbours': 10} cannot be used: SNCLRHead" in result.output


def test_without_a_run_to_resume_images_are_needed(tmp_path):
    result = command('--out', tmp_path / 'none', '--resume')
    assert result.exit_code == 1 and 'there is no run to continue' in result.output


def test_a_time_budget_chooses_the_epochs(digits, tmp_path, monkeypatch):
    # As on a machine on which an epoch of 3 steps takes 25 minutes.
    monkeypatch.setitem(unwrap(pretrain).__globals__, 'seconds_per_step', lambda *_: 500.0)
    run(digits / 'unlabelled', tmp_path / 'run', epochs=None, time='1h')
    cfg = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert cfg.train_cfg.max_epochs == 2 and 'what fits into 1h' in cfg.settings.epochs
    with pytest.raises(ValueError, match=r"time='26m' is too short: an epoch takes 25 m here"):
        run(digits / 'unlabelled', tmp_path / 'short', epochs=None, time='26m')


def test_no_time_is_not_taken_for_any_time(digits, tmp_path):
    with pytest.raises(ValueError, match="time='0m' is no duration"):
        run(digits / 'unlabelled', tmp_path / 'run', epochs=None, time='0m')


def test_what_cfg_options_override_is_shown_as_it_is(digits, tmp_path):
    options = SMALL | {'model.head.neighbors': 7, 'optim_wrapper.optimizer.lr': 0.25}
    run(digits / 'unlabelled', tmp_path / 'run', epochs=1, cfg_options=options)
    cfg = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert (cfg.model.head.neighbors, cfg.optim_wrapper.optimizer.lr) == (7, 0.25)
    assert cfg.settings['K'] == '7, by cfg_options'
    assert cfg.settings['learning rate'] == '0.25, by cfg_options'


def test_a_run_that_was_copied_is_continued_where_it_lies_now(finished, tmp_path):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    copy = shutil.copytree(out, tmp_path / 'copy')
    (copy / 'epoch_2.pth').unlink()
    (copy / 'images.txt').rename(tmp_path / 'images.txt')
    with pytest.raises(FileNotFoundError, match=str(copy / 'images.txt')):
        pretrain([], copy, resume=True)
    (tmp_path / 'images.txt').rename(copy / 'images.txt')
    assert pretrain([], copy, resume=True) == copy / 'epoch_2.pth'
    for name, value in weights(copy / 'epoch_2.pth').items():
        assert torch.equal(value, weights(out / 'epoch_2.pth')[name])
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before
    moved = copy.rename(tmp_path / 'moved')
    assert 'gray, no jitter of colours' in report(moved, queries=2, shown=2).read_text()


def test_a_folder_of_something_else_is_not_resumed(tmp_path):
    (tmp_path / 'config.py').write_text("default_scope = 'mmdet'")
    with pytest.raises(ValueError, match='is not of a pretraining: choose another --out'):
        pretrain([], tmp_path, resume=True)


def test_folder_names_give_the_purity_in_the_log(finished):
    out, _ = finished
    assert 'neighbor_purity' in log(out)[-1]
    rows = list(csv.DictReader((out / 'labels.csv').open()))
    assert len(rows) == 60 and all(Path(r['path']).parent.name == r['label'] for r in rows)


def test_a_csv_must_label_every_image(digits, tmp_path):
    paths = sorted((digits / 'unlabelled').iterdir())
    rows = [f'{path.name},{number % 2}' for number, path in enumerate(paths)]
    table, settings = tmp_path / 'labels.csv', dict(image_root=digits / 'unlabelled')
    table.write_text('\n'.join(['path,label', *rows[1:]]))
    with pytest.raises(ValueError, match=r'no label for 1 of the 96 images, such as .*00000\.png'):
        run(digits / 'unlabelled', tmp_path / 'run', labels=table, **settings)
    table.write_text('\n'.join(['file,class', *rows]))
    with pytest.raises(ValueError, match="must have the columns 'path' and 'label'"):
        run(digits / 'unlabelled', tmp_path / 'run', labels=table, **settings)


def test_a_csv_labels_a_list_of_images(digits, tmp_path):
    paths = [str(path) for path in sorted((digits / 'unlabelled').iterdir())[:4]]
    (tmp_path / 'images.txt').write_text('\n'.join(paths))
    rows = [f'{path},{name}\n' for path, name in zip(paths, ('dog', 'cat', 'dog', 'ape'))]
    (tmp_path / 'labels.csv').write_text('path,label\n' + ''.join(rows))
    config = dict(type='ImageList', ann_file=str(tmp_path / 'images.txt'))
    dataset = DATASETS.build(dict(config, labels=str(tmp_path / 'labels.csv')))
    assert dataset.CLASSES == ('ape', 'cat', 'dog')
    assert [dataset[index]['gt_label'] for index in range(4)] == [2, 1, 2, 0]
    (tmp_path / 'labels.csv').write_text('path,label\n' + ''.join(rows[:3]))
    with pytest.raises(ValueError, match='has no label for 1 of the 4 images'):
        DATASETS.build(dict(config, labels=str(tmp_path / 'labels.csv')))
    (tmp_path / 'images.txt').write_text('\n'.join([*paths, 'gone.png']))
    with pytest.raises(FileNotFoundError, match=r"1 of the 5 images .* the first 'gone\.png'"):
        DATASETS.build(config)


@pytest.fixture
def messy(digits, tmp_path):
    """A folder with 40 good pictures and some that are not."""
    folder = tmp_path / 'messy'
    (folder / 'deeper').mkdir(parents=True)
    for number in range(40):
        name = f'{number:05d}.png'
        shutil.copy(digits / 'unlabelled' / name, folder / 'deeper' / name)
    picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    for name, save in (('cut.jpg', {}), ('cut_progressive.jpg', dict(progressive=True))):
        stream = BytesIO()
        Image.fromarray(picture).save(stream, 'JPEG', **save)
        (folder / name).write_bytes(stream.getvalue()[:-9000])
    (folder / 'text.png').write_text('no picture')
    (folder / 'empty.jpg').touch()
    Image.fromarray(picture[:20, :90]).save(folder / 'tiny.png')
    shutil.copy(digits / 'unlabelled' / '00007.png', folder / 'copy_of_7.png')
    for name in (b'not_utf8_\xff.png', b'two\nlines.png'):
        shutil.copy(digits / 'unlabelled' / '00001.png', folder / os.fsdecode(name))
    (folder / '.hidden.png').write_text('not looked at')
    (folder / 'notes.txt').write_text('not an image')
    return folder


def test_unusable_images_are_left_out_each_with_its_reason(messy, tmp_path):
    with pytest.raises(ValueError, match='batch=128 must lie between 2 and the 40 usable images'):
        run(messy, tmp_path / 'run', batch=128)
    reasons = {
        Path(row['path']).name: row['reason']
        for row in csv.DictReader((tmp_path / 'run' / 'left_out.csv').open())
    }
    assert reasons.pop('cut.jpg').startswith('truncated')
    assert reasons.pop('cut_progressive.jpg').startswith('truncated')
    assert reasons.pop('text.png') == 'unreadable: not an image of a known kind'
    assert reasons.pop('not_utf8_\\udcff.png') == 'name: not UTF-8'
    assert reasons.pop('two\nlines.png') == 'name: has a line break'
    assert reasons.pop('empty.jpg') == 'empty: the file has no content'
    assert reasons.pop('tiny.png') == 'tiny: its shorter edge is 20 pixels, less than 32'
    assert reasons.pop('00007.png') == f'duplicate of {messy / "copy_of_7.png"}'
    assert not reasons
    accepted = (tmp_path / 'run' / 'images.txt').read_text().splitlines()
    assert len(accepted) == 40 and all(Path(path).is_file() for path in accepted)


def test_images_of_12_bits_are_trained_and_looked_at_by_the_range_of_the_set(digits, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for path in sorted((digits / 'unlabelled').iterdir())[:40]:
        gray = np.asarray(Image.open(path).convert('L')).astype(np.uint16)
        Image.fromarray(gray * 10 + 1000).save(folder / path.name)
    checkpoint = run(folder, tmp_path / 'run', epochs=1)
    encoder = read_encoder(checkpoint)
    levels = tuple(encoder.config.train_dataloader.dataset.pipeline[0].levels)
    images = sorted(folder.iterdir())
    ranges = [Image.open(path).getextrema() for path in images]
    assert levels == (min(low for low, _ in ranges), max(high for _, high in ranges))
    features = represent_images(encoder, images).parts['features']
    for path in images:
        Image.fromarray(read_image(path, levels)).save(path)  # as 8 bits
    torch.testing.assert_close(represent_images(encoder, images).parts['features'], features)


def test_too_few_images_are_refused_with_numbers(messy, tmp_path):
    for path in sorted((messy / 'deeper').iterdir())[:30]:
        path.unlink()
    with pytest.raises(ValueError, match=r'11 usable images are too few.*pass 32'):
        run(messy, tmp_path / 'run')
    with (tmp_path / 'run' / 'left_out.csv').open(newline='') as file:
        assert len(list(csv.DictReader(file))) == 7


def test_a_backbone_that_nobody_knows_is_named(digits, tmp_path):
    result = command(digits / 'unlabelled', '--out', tmp_path, '--backbone', 'resnet_18')
    assert result.exit_code == 1
    assert "backbone='resnet_18' is neither one of r18, r34, r50" in result.output


def test_an_earlier_run_becomes_the_initialisation(finished, digits, tmp_path):
    checkpoint = finished[0] / 'epoch_2.pth'
    run(digits / 'unlabelled', tmp_path / 'run', init=checkpoint, epochs=1)
    stored = weights(checkpoint)
    for key, value in weights(tmp_path / 'run' / 'init' / 'backbone.pth').items():
        assert torch.equal(value, stored[f'backbone.{key}'])
    cfg = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert 'a tenth of the recipe for a trained backbone' in cfg.settings['learning rate']


def test_a_pretrained_vit_keeps_its_patch_projection_and_goes_on_learning(digits, tmp_path):
    name = 'vit_tiny_patch16_224'
    source = timm.create_model(name, img_size=32)
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    small = {key: value for key, value in SMALL.items() if 'hid_channels' in key}
    settings = dict(backbone=name, size=32, init=tmp_path / 'vit.pth', cfg_options=small)
    run(digits / 'unlabelled', tmp_path / 'run', epochs=1, **settings)
    trained = weights(tmp_path / 'run' / 'epoch_1.pth')
    for key, value in source.state_dict().items():
        if not key.startswith('head.'):
            kept = key.startswith('patch_embed.')
            assert value.equal(trained[f'backbone.timm_model.{key}']) == kept, key


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(batch=1), 'batch=1 must be at least 2'),
        (dict(time='1h'), "epochs=.* and time='1h' say the same"),
        (dict(views='grey'), "views='grey' must be one of strong, gray, weak"),
        (dict(workers=-1), 'workers=-1 must be at least 0'),
        (dict(cfg_options={'train_cfg.max_epochs': 3}), 'pass epochs instead of train_cfg.max_ep'),
        (
            dict(backbone='crossvit_9_240', cfg_options={}),
            'crossvit_9_240. cannot be used at',
        ),
        (dict(backbone='inception_v3', size=64, cfg_options={}), 'cannot be used at size=64'),
        (dict(backbone='vit-s', size=40), 'size=40 must be a multiple of 16'),
        (dict(backbone='vit_tiny_patch16_224', size=40, cfg_options={}), 'a multiple of 16'),
        (dict(backbone='resnet18.none'), r"backbone='resnet18\.none': Invalid pretrained tag"),
        (dict(backbone='vit_tny_patch16_224'), r'did you mean .*vit_tiny_patch16_224'),
        (dict(backbone='r34', init=True), r'init=.*Pass a checkpoint of the same architecture'),
    ],
)
def test_what_is_wrong_at_any_number_of_images_is_refused_before_they_are_read(
    finished, digits, tmp_path, setting, message
):
    if 'init' in setting:
        setting = setting | dict(init=finished[0] / 'epoch_2.pth')
    with pytest.raises(ValueError, match=message):
        run(digits / 'unlabelled', tmp_path / 'run', **setting)
    assert not (tmp_path / 'run').exists()
