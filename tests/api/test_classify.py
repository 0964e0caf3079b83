"""Labelled images in, a classifier and its measured quality out."""

import csv
import io
import json
import os
import re
import shutil
import signal
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from helpers import pretrained_resnet, run_ranks, run_tool
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmpretrain import ImageClassificationInferencer
from pictures import shown_in
from scipy.stats import binomtest

from mmsnclr.api import export, predict_classes
from mmsnclr.api.classify import classify
from mmsnclr.api.predict import predict
from mmsnclr.checkpoints import Stored
from mmsnclr.cli import main
from mmsnclr.datasets.decoding import read_image
from mmsnclr.datasets.scan import scan_into

COLOURS = dict(blue=(200, 60, 60), green=(60, 200, 60), red=(60, 60, 200))
QUICK = dict(size=32, workers=0, amp='off')


@pytest.fixture(scope='module')
def blobs(tmp_path_factory):
    """Noise of three colours, 14 images of each, in a folder for each."""
    folder, rng = tmp_path_factory.mktemp('blobs'), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(14):
            pixels = rng.normal(colour, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f'{number}.png'), pixels)
    return folder


@pytest.fixture(scope='module')
def checkpoint(blobs, tmp_path_factory):
    """A backbone that was pretrained on two of the colours."""
    folder = tmp_path_factory.mktemp('backbone')
    scan_into(folder, [blobs / 'blue', blobs / 'red'], None, None, 32)
    return pretrained_resnet(folder / 'snclr.pth')


@pytest.fixture(scope='module')
def arguments(blobs, checkpoint):
    return dict(images=blobs, backbone=checkpoint, compare='random', epochs=16, lr=0.01, **QUICK)


@pytest.fixture(scope='module')
def run(arguments, tmp_path_factory):
    """A classifier of a few steps, and what was said."""
    out = tmp_path_factory.mktemp('run') / 'classifier'
    with redirect_stdout(io.StringIO()) as said, warnings.catch_warnings(record=True) as warned:
        classification = classify(**arguments, out=out)
    assert not [warning for warning in warned if 'optimizer.step()' in str(warning.message)]
    return classification, out, said.getvalue()


def rows(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def weights(path):
    return Stored.read(path).weights


def test_images_to_validate_on_that_were_pretrained_on_are_said(run, checkpoint):
    classification, out, said = run
    equal = f'Of 9 images to validate on, 6 are equal to images that {checkpoint} was pretrained on'
    for text in (said, classification.summary.read_text()):
        assert equal in text
        assert 'Of 9 images to validate on, 0 are equal to images to learn from' in text
    listed = {row['path'] for row in rows(out / 'leakage.csv') if row['is'] == 'equal to'}
    assert len(listed) == 6 and listed <= set((out / 'val.txt').read_text().splitlines())


def test_an_easy_set_is_learned_and_everything_is_written(run):
    classification, out, said = run
    result = classification.results['pretrained']
    assert list(classification.results) == ['pretrained', 'random']
    assert result.top1 > 85 and result.top5 is None
    assert sum(one.images for one in result.classes) == 9 == int(result.confusion.sum())
    summary = classification.summary.read_text()
    for text in (said, summary):
        assert f'| pretrained | {result.top1:.1f} | {result.balanced:.1f} |  |' in text
        assert re.search(r'\| random \| [\d.]+ \| [\d.]+ \| [+-][\d.]+ \[.+, .+\] \|', text)
    for setting in (
        r'images +33 +to learn from, 9 to',
        r'classes +3 ',
        r'epochs +16 +as asked for',
    ):
        assert re.search(setting, said)
    low, high = binomtest(round(result.top1 * 9 / 100), 9).proportion_ci(method='wilson')
    assert f'top-1 lies between {100 * low:.1f} and {100 * high:.1f}' in summary
    assert 'SGD' in summary and '(confusion_matrix.png)' in summary
    assert '9 images to validate on, 33 to learn from; no --val: these were drawn (seed 0)' in said
    assert (out / 'confusion_matrix.png').stat().st_size > 5000
    assert (out / 'random/training/epoch_16.pth').is_file()
    found = rows(out / 'predictions.csv')
    right = sum(row['label'] == row['class'] for row in found)
    assert 100 * right / len(found) == pytest.approx(result.top1)
    assert list(found[0]) == ['path', 'label', 'class', 'score', 'blue', 'green', 'red']
    wrong = (out / 'mistakes.html').read_text()
    assert f'{len(found) - right} of {len(found)} images are taken for another class' in wrong


def test_the_classifier_starts_from_the_checkpoint_and_the_other_does_not(run, checkpoint):
    start = weights(checkpoint)['backbone.conv1.weight']
    distance = {}
    for name, folder in (('pretrained', run[1]), ('random', run[1] / 'random')):
        trained = weights(folder / 'training/epoch_16.pth')['backbone.conv1.weight']
        distance[name] = (trained - start).norm() / start.norm()
    assert 1e-5 < distance['pretrained'] < distance['random'] / 2
    configs = [Config.fromfile(path / 'config.py') for path in (run[1], run[1] / 'random')]
    assert configs[0].model.backbone.pop('init_cfg').type == 'Pretrained'
    assert configs[0].model == configs[1].model
    assert configs[0].optim_wrapper == configs[1].optim_wrapper
    assert configs[0].sync_bn == configs[1].sync_bn == 'torch'  # tools/train.py may use GPUs


def test_what_was_interrupted_is_continued_to_the_same_bits(run, arguments, tmp_path):
    whole, out, given = run[0], tmp_path / 'classifier', arguments | dict(compare=())

    def die_in_the_tenth_epoch():
        from mmsnclr.engine.hooks import ViewSeedHook

        def seed(hook, runner):
            if runner.epoch == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            start(hook, runner)

        start, ViewSeedHook.before_train_epoch = ViewSeedHook.before_train_epoch, seed
        classify(**given, out=out)

    assert run_ranks(die_in_the_tenth_epoch, 1) == [-signal.SIGKILL]
    assert (out / 'training/epoch_8.pth').is_file()
    with pytest.raises(ValueError, match='holds a run already'):
        classify(**given, out=out)
    with pytest.raises(ValueError, match=r'seed=1 differs from 0, .*--resume'):
        classify(**given, out=out, seed=1, resume=True)
    again = classify(**given, out=out, resume=True)
    first, second = weights(whole.checkpoint), weights(again.checkpoint)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert again.results['pretrained'].top1 == whole.results['pretrained'].top1


def test_a_run_that_was_copied_is_continued_where_it_lies_now(run, arguments, tmp_path):
    whole, out, _ = run
    before = set(out.rglob('*'))
    copy = shutil.copytree(out, tmp_path / 'copy')
    shutil.rmtree(copy / 'training')
    again = classify(**arguments, out=copy, resume=True)
    assert set(out.rglob('*')) == before and again.checkpoint == copy / 'training/epoch_16.pth'
    first, second = weights(whole.checkpoint), weights(again.checkpoint)
    assert all(torch.equal(first[key], second[key]) for key in first)
    for name in ('config.py', 'random/config.py'):
        assert str(out) not in (copy / name).read_text()


def test_predictions_that_were_half_written_are_made_again(
    blobs, checkpoint, tmp_path, monkeypatch
):
    given = dict(images=blobs, backbone=checkpoint, out=tmp_path, epochs=1, **QUICK)

    def fail(dump, results):
        Path(dump.out_file_path).write_bytes(b'half')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DumpResults, 'compute_metrics', fail)
        with pytest.raises(KeyboardInterrupt):
            classify(**given)
    assert classify(**given, resume=True).results['pretrained'].top1 >= 0


def test_it_is_a_plain_classifier_of_mmpretrain(run):
    classification, out, _ = run
    infer = ImageClassificationInferencer(str(out / 'config.py'), str(classification.checkpoint))
    for row in rows(out / 'predictions.csv')[:3]:
        (found,) = infer(row['path'])
        assert found['pred_class'] == row['class']
        assert found['pred_score'] == pytest.approx(float(row['score']), abs=1e-4)


def test_predict_gives_the_probabilities_of_the_validation(run, tmp_path, monkeypatch):
    classification, out, _ = run
    known = {row['path']: row for row in rows(out / 'predictions.csv')}
    (tmp_path / 'broken.png').write_bytes(b'no image')
    command = ['predict', classification.checkpoint, *known, tmp_path / 'broken.png']
    sizes, score = [], predict_classes._score
    monkeypatch.setattr(
        predict_classes,
        '_score',
        lambda model, batch: sizes.append(len(batch)) or score(model, batch),
    )
    command += ['--batch', 4, '--out']
    for _ in range(2):
        result = CliRunner().invoke(main, [*map(str, command), str(tmp_path / 'found')])
    assert result.exit_code == 1 and 'holds predictions already' in result.output
    found = rows(tmp_path / 'found/predictions.csv')
    assert {row['path'] for row in found} == set(known) and sizes == [4, 4, 1]
    (left_out,) = rows(tmp_path / 'found/left_out.csv')
    assert left_out['path'] == str(tmp_path / 'broken.png') and left_out['reason']
    for row in found:
        assert row['class'] == known[row['path']]['class']
        for name in COLOURS:
            assert float(row[name]) == pytest.approx(float(known[row['path']][name]), abs=1e-4)
    with pytest.raises(ValueError, match='none of the 1 images can be read'):
        predict(classification.checkpoint, tmp_path / 'broken.png', tmp_path / 'none')


def test_images_that_mmcvs_own_loader_cannot_read_are_left_out(run, blobs, tmp_path):
    stored = torch.load(run[0].checkpoint, weights_only=False)
    cfg = Config.fromstring(stored['meta']['cfg'], '.py')
    cfg.test_dataloader.dataset.pipeline[0] = dict(type='LoadImageFromFile')
    stored['meta']['cfg'] = cfg.pretty_text
    torch.save(stored, tmp_path / 'theirs.pth')
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'broken.png').write_bytes(b'no image')
    bad = sorted(tmp_path.glob('*.png'))
    (found,) = predict(
        tmp_path / 'theirs.pth', [*bad, next(blobs.rglob('*.png'))], tmp_path / 'out'
    )
    assert found['class'] in COLOURS
    assert [row['path'] for row in rows(tmp_path / 'out/left_out.csv')] == list(map(str, bad))


def test_a_classifier_that_does_not_tell_how_images_are_loaded_is_refused(run, tmp_path):
    classification, out, _ = run
    stored = torch.load(classification.checkpoint, weights_only=False)
    stored['meta']['cfg'] = stored['meta']['cfg'].replace('test_dataloader', 'another')
    torch.save(stored, tmp_path / 'untested.pth')
    with pytest.raises(ValueError, match=r'untested\.pth.*\(test_dataloader\)'):
        predict(tmp_path / 'untested.pth', out / 'val.txt', tmp_path / 'found')


def test_onnx_has_the_head_and_the_names_of_the_classes(run, tmp_path):
    classification, out, _ = run
    export(classification.checkpoint, tmp_path / 'out.onnx', 'onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'out.onnx')
    meta = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert meta['classes'] == list(COLOURS)
    row = rows(out / 'predictions.csv')[0]
    height, width = 37, 44  # the shorter edge at 8/7 of 32
    pixels = cv2.resize(read_image(row['path']), (width, height))[2:34, 6:38, ::-1]
    images = ((pixels - np.array(meta['mean'])) / np.array(meta['std'])).astype(np.float32)
    (found,) = session.run(['probabilities'], {'images': images.transpose(2, 0, 1)[None]})
    assert found[0] == pytest.approx([float(row[name]) for name in COLOURS], abs=0.02)


def test_a_csv_and_a_validation_csv(blobs, checkpoint, tmp_path):
    for part, numbers in dict(train=range(8), val=range(8, 11)).items():
        lines = [f'{name}/{n}.png,{name.upper()}' for name in COLOURS for n in numbers]
        (tmp_path / f'{part}.csv').write_text('\n'.join(['path,label', *lines]))
    command = ['classify', tmp_path / 'train.csv', '--val', tmp_path / 'val.csv', '--backbone']
    command += [checkpoint, '--image-root', blobs, '--size', '32', '--epochs', '1', '--workers']
    command += ['0', '--no-flip', '--out', tmp_path / 'out', '--frozen']
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, (result.output, result.exception)
    assert re.search('images +24 +to learn from, 9 to validate on', result.stdout)
    assert 'mmsnclr predict' in result.stdout and 'drawn' not in result.stdout
    found = rows(tmp_path / 'out/predictions.csv')
    assert {row['label'] for row in found} == {'BLUE', 'GREEN', 'RED'} and len(found) == 9
    view = Config.fromfile(tmp_path / 'out/config.py').train_dataloader.dataset.pipeline[0].views[0]
    assert view.flip_prob == 0
    before, after = weights(checkpoint), weights(tmp_path / 'out/training/epoch_1.pth')
    assert all(torch.equal(before[key], after[key]) for key in after if 'backbone' in key)


def test_mistakes_of_16_bits_are_shown_as_the_classifier_sees_them(checkpoint, tmp_path):
    draw = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / 'images' / 'ab'[number % 2]  # which cannot be told apart
        folder.mkdir(parents=True, exist_ok=True)
        values = draw.integers(1000, 1200, (32, 32)).astype(np.uint16)
        cv2.imwrite(str(folder / f'{number}.png'), values)
    classify(tmp_path / 'images', checkpoint, tmp_path / 'out', **QUICK, epochs=1)
    shown = shown_in(tmp_path / 'out/mistakes.html')
    assert shown and all(np.ptp(image) > 200 for image in shown)


def test_parts_of_a_folder_are_taken_as_they_are(digits, checkpoint, tmp_path):
    result = classify(digits / 'labelled', checkpoint, tmp_path / 'out', **QUICK, epochs=1)
    assert len((tmp_path / 'out/train.txt').read_text().splitlines()) == 60
    assert {row['path'].split('/')[-3] for row in rows(tmp_path / 'out/predictions.csv')} == {'val'}
    accuracy = result.results['pretrained']
    assert accuracy.top1 <= accuracy.top5 <= 100


def one_class(folder):
    for name in ('green', 'red'):
        shutil.rmtree(folder / name)
    return {}


def unlabelled_image(folder):
    lines = [f'{p.parent.name}/{p.name},{p.parent.name}' for p in folder.rglob('*.png')]
    (folder / 'l.csv').write_text('\n'.join(['path,label', *lines[1:], lines[0].split(',')[0]]))
    return dict(images=folder / 'l.csv')


def unusable_class(folder):
    for path in (folder / 'red').iterdir():
        path.write_bytes(b'')
    return {}


def unknown_class(folder):
    shutil.move(folder / 'red', folder.parent / 'val' / 'red')
    shutil.copytree(folder / 'green', folder.parent / 'val' / 'green')
    return dict(val=folder.parent / 'val')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (one_class, 'are of one class'),
        (unlabelled_image, 'has no label for 1 of the 42 images'),
        (unusable_class, 'no image of class red is usable'),
        (unknown_class, 'class red of the images to validate on is not among those'),
        (lambda folder: dict(val=folder), 'no image is left to learn from'),
        (lambda folder: dict(epochs=0), 'epochs=0 must be at least 1'),
        (lambda folder: dict(seed=-1), 'seed=-1 must be at least 0'),
        (lambda folder: dict(batch=1000), 'batch=1000 must lie between 2'),
        (lambda folder: dict(lr=float('inf')), 'lr=inf must be greater than 0'),
        (lambda folder: dict(compare=['random', 'random']), "'random' is given twice"),
        (lambda folder: dict(backbone=folder / 'none.pth'), 'is no file'),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    change, message, blobs, checkpoint, tmp_path
):
    folder = shutil.copytree(blobs, tmp_path / 'set')
    given = dict(QUICK, images=folder, backbone=checkpoint) | change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        classify(**given, out=tmp_path / 'out')
    assert not (tmp_path / 'out/config.py').exists()


def test_another_run_is_not_written_over(blobs, checkpoint, tmp_path):
    (tmp_path / 'config.py').write_text("model = dict(type='SNCLR')")
    with pytest.raises(ValueError, match='holds no classifier'):
        classify(blobs, checkpoint, tmp_path, resume=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']


@pytest.mark.slow
def test_two_processes_classify_as_one_and_the_tool_repeats_it(run, arguments, tmp_path):
    whole = run[0]
    given = arguments | dict(compare=(), epochs=2)
    one = classify(**given, out=tmp_path / 'one', gpus=1)
    two = classify(**given, out=tmp_path / 'two', gpus=2)
    assert Stored.read(two.checkpoint).meta['world_size'] == 2
    found = [rows(tmp_path / name / 'predictions.csv') for name in ('one', 'two')]
    assert [row['path'] for row in found[0]] == [row['path'] for row in found[1]]
    config = str(run[1] / 'config.py')
    result = run_tool('tools/train.py', config, '--work-dir', str(tmp_path / 'again'))
    assert result.returncode == 0, result.stderr
    first, second = weights(whole.checkpoint), weights(tmp_path / 'again/epoch_16.pth')
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert one.results['pretrained'].top1 > 0
