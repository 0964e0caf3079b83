"""Starts compared over numbers of labelled images and seeds."""

import csv
import io
import json
import os
import re
import shutil
import signal
from contextlib import redirect_stdout

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import pretrained_resnet
from mmengine.config import Config

from mmsnclr.api.classifiers import ClassifierTrainings
from mmsnclr.api.classify import classify
from mmsnclr.api.detect import detect
from mmsnclr.cli import main
from mmsnclr.engine.hooks.preemption import PREEMPTED, PreemptionHook
from mmsnclr.engine.run import latest_checkpoint


@pytest.fixture(scope='module')
def detection(scenes, tmp_path_factory):
    """Arguments of a study of detectors of boxes."""
    folder = tmp_path_factory.mktemp('detection')
    for part in ('train', 'val'):
        content = json.loads((scenes / f'{part}.json').read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        (folder / f'{part}.json').write_text(json.dumps(content))
    return dict(
        train_json=folder / 'train.json',
        images=scenes / 'train',
        backbone=pretrained_resnet(folder / 'snclr.pth'),
        out=folder / 'out',
        val_json=folder / 'val.json',
        val_images=scenes / 'val',
        compare='random',
        size=64,
        batch=2,
        workers=0,
    )


def finished(out):
    """When each training was finished."""
    return {path.parent: path.stat().st_mtime_ns for path in out.glob('runs/*/*/*/measures.json')}


@pytest.fixture(scope='module')
def interrupted(detection):
    """What a study said that a signal ended in its second training, and what was there."""
    begin, begun = PreemptionHook.before_train, []

    def before_train(hook, runner):
        begin(hook, runner)
        begun.append(runner)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(PreemptionHook, 'before_train', before_train)
        with pytest.raises(SystemExit) as ended:
            detect(**detection, epochs=0.5, fractions=[50], seeds=1)
    assert ended.value.code == PREEMPTED
    return said.getvalue(), finished(detection['out'])


@pytest.fixture(scope='module')
def resumed(detection, interrupted):
    """The same, gone on with and extended."""
    with redirect_stdout(io.StringIO()) as said:
        study = detect(**detection, epochs=0.5, fractions=[100, 50], seeds=1, resume=True)
    return study, said.getvalue()


def test_it_tells_beforehand_what_it_will_train_and_how_long(interrupted, resumed):
    for said, trainings, left in ((interrupted[0], 2, 2), (resumed[1], 4, 3)):
        assert f'{trainings} trainings: starts (pretrained, random) x percents ' in said
        assert re.search(r'  4 images \(50 %\) +2 iterations  0.5 epochs of 4 annotated', said)
        assert re.search(rf'\n{left} trainings will take about [\d.]+ (s|m), by steps', said)
    assert re.search(r'  8 images \(100 %\) +2 iterations  0.5 epochs of 8 annotated', resumed[1])
    assert '; finished: 1' in resumed[1]


def test_what_was_interrupted_tells_what_it_has_and_goes_on(detection, interrupted, resumed):
    said, before = interrupted
    assert 'So far, of 1 of 2 trainings:' in said and '| 4 (50 %) | pretrained |' in said
    out = detection['out']
    assert list(before) == [out / 'runs/pretrained/50/0']
    after = finished(out)
    assert {path: after[path] for path in before} == before and len(after) == 4
    # The second was not begun anew.
    logs = sorted((out / 'runs/random/50/0/training').glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2]
    assert 'Training 2 of 4: random, 4 labelled images (50 %), seed 0' in resumed[1]


def test_smaller_sets_are_parts_of_larger_ones_and_the_same_for_each_start(detection, resumed):
    out = detection['out']
    some, all_of_them = (
        json.loads((out / f'subsets/{percent}/0.json').read_text()) for percent in (50, 100)
    )
    whole = json.loads(detection['train_json'].read_text())
    ids = [{image['id'] for image in part['images']} for part in (some, all_of_them, whole)]
    assert ids[0] < ids[1] == ids[2] and len(ids[0]) == 4
    assert {one['image_id'] for one in some['annotations']} == ids[0]
    for percent in (50, 100):
        ours, theirs = (
            Config.fromfile(out / f'runs/{start}/{percent}/0/config.py')
            for start in ('pretrained', 'random')
        )
        assert ours.train_dataloader.dataset.ann_file == str(out / f'subsets/{percent}/0.json')
        assert ours.val_dataloader.dataset.ann_file == str(out / 'val.json')
        assert ours.model.backbone.init_cfg and not theirs.model.backbone.init_cfg
        for key in ('train_dataloader', 'val_dataloader', 'randomness', 'train_cfg'):
            assert ours[key] == theirs[key]


def test_one_seed_is_said_to_tell_nothing_of_others(detection, resumed):
    study, said = resumed
    assert 'Whether pretrained is better than random by box AP cannot be told: one seed' in said
    summary = study.summary.read_text()
    for text in ('4 of 4 trainings are finished.', '## Box AP50', '![box AP, box AP50 by number'):
        assert text in summary
    assert f'| pretrained | {detection["backbone"]} |' in summary
    assert re.search(r'\| 8 \(100 %\) \| pretrained \| [\d.]+ \[[\d.]+, [\d.]+\] \|', summary)
    assert re.search(r'\|  \| random \| [\d.]+ \[.+\] \| one seed \| [+-].+ \[.+\] \|', summary)
    # Each is a run like any other.
    run = detection['out'] / 'runs/random/100/0'
    assert (run / 'summary.md').is_file()
    # It is taken for a detector, and has what the optimiser needed no more.
    checkpoint = torch.load(latest_checkpoint(run / 'training'), weights_only=False)
    assert checkpoint['meta']['iter'] == 2 and not checkpoint['optimizer']['state']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(fractions=[50]), 'holds a study already: .*--resume'),
        (dict(fractions=[50], resume=True, lr=0.1), r'started otherwise .*lr.*--resume'),
        (dict(fractions=[50], resume=True, seed=1), r'started otherwise .*seed'),
        (dict(resume=True), 'holds a study: pass its --fractions and --resume'),
        (dict(fractions=[50, 101]), r'fractions=\[50.0, 101.0\] must be percents above 0'),
        (dict(seeds=0), 'seeds=0 must be at least 1'),
        (dict(compare=['random', 'random']), "'random' is given twice"),
    ],
)
def test_another_study_is_not_gone_on_with(detection, resumed, options, message):
    with pytest.raises(ValueError, match=message):
        detect(**(detection | dict(epochs=0.5) | options))


def test_other_weights_of_the_same_name_are_not_taken_for_those_of_before(detection, resumed):
    content = detection['backbone'].read_bytes()
    detection['backbone'].write_bytes(content + b' ')
    with pytest.raises(ValueError, match=r'started otherwise \(content of .*snclr.pth was'):
        detect(**detection, epochs=0.5, fractions=[50], seeds=1, resume=True)
    detection['backbone'].write_bytes(content)


def test_paths_of_a_study_are_compared_by_where_they_lead(
    detection, resumed, tmp_path, monkeypatch
):
    folder, notes = detection['out'].parent, detection['out'] / 'study.json'
    typed = dict(train_json='./train.json', val_json='out/../val.json', backbone='snclr.pth')
    given = detection | typed | dict(images=f'{detection["images"]}/')
    given |= dict(epochs=0.5, fractions=[50], seeds=1, resume=True)
    monkeypatch.chdir(folder)
    detect(**given)
    # The first versions noted them as they were typed.
    notes.write_text(notes.read_text().replace(f'{folder}/', ''))
    detect(**given)
    shutil.copy('snclr.pth', tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'started otherwise \(train_json was .*, is '):
        detect(**given)


@pytest.fixture(scope='module')
def blobs(tmp_path_factory):
    """Noise of two colours, 15 images of one and 5 of the other."""
    folder, rng = tmp_path_factory.mktemp('blobs'), np.random.default_rng(0)
    for name, colour, count in (('blue', 200, 15), ('red', 60, 5)):
        (folder / name).mkdir()
        for number in range(count):
            pixels = rng.normal((colour, 60, 260 - colour), 40, (32, 32, 3)).clip(0, 255)
            cv2.imwrite(str(folder / name / f'{number}.png'), pixels.astype(np.uint8))
    return folder


@pytest.fixture(scope='module')
def classification(blobs, tmp_path_factory):
    """A study of classifiers by the command line, and what was said."""
    folder = tmp_path_factory.mktemp('classification')
    backbone = pretrained_resnet(folder / 'snclr.pth')
    command = ['classify', blobs, '--backbone', backbone, '--compare', 'random', '--epochs', 2]
    command += ['--fractions', '50,75', '--seeds', 2, '--size', 32, '--workers', 0, '--amp', 'off']
    result = CliRunner().invoke(main, [str(word) for word in [*command, '--out', folder / 'out']])
    assert result.exit_code == 0, result.output
    return folder / 'out', result.stdout


def test_classifiers_are_compared_by_seeds_and_images(classification):
    out, said = classification
    rows = list(csv.DictReader((out / 'results.csv').open()))
    points = json.loads((out / 'results.json').read_text())
    assert len(rows) == len(points) == 2 * 2 * 2
    assert [point['images'] for point in points[:4]] == [8, 8, 12, 12]
    for point, row in zip(points, rows):
        folder = out / 'runs' / row['start'] / row['percent']
        values = [json.loads((folder / f'{seed}/measures.json').read_text()) for seed in (0, 1)]
        values = [measures[row['measure']]['value'] for measures in values]
        assert list(point['values'].values()) == values
        assert float(row['mean']) == pytest.approx(np.mean(values), abs=1e-3)
        assert float(row['deviation']) == pytest.approx(np.std(values, ddof=1), abs=1e-3)
        assert (row['difference'] == '') == (row['start'] == 'pretrained')
    assert 'pretrained is ahead by, over seeds' in said and ' ± ' in said
    assert re.search(r'Whether pretrained is better|Pretrained instead of random, top-1', said)
    assert cv2.imread(str(out / 'curve.png')).shape[0] > 300


def test_a_seed_draws_the_images_and_trains_alike_from_each_start(classification, blobs):
    out, _ = classification
    lists = {
        (percent, seed): (out / f'subsets/{percent}/{seed}.txt').read_text().split()
        for percent in (50, 75)
        for seed in (0, 1)
    }
    validated = set((out / 'val.txt').read_text().split())
    for seed in (0, 1):
        some, more = (set(lists[percent, seed]) for percent in (50, 75))
        assert some < more and not more & validated
        assert (len(some), len(more), len(validated)) == (8, 12, 4)
        assert sum('/red/' in path for path in some) == 2  # of 4 among 16
    assert lists[50, 0] != lists[50, 1]
    for seed in (0, 1):
        configs = [
            Config.fromfile(out / f'runs/{start}/50/{seed}/config.py')
            for start in ('pretrained', 'random')
        ]
        assert {cfg.randomness.seed for cfg in configs} == {seed}
        assert len({cfg.train_dataloader.dataset.ann_file for cfg in configs}) == 1
    first, other = (
        torch.load(out / f'runs/random/50/{seed}/training/epoch_2.pth', weights_only=False)
        for seed in (0, 1)
    )
    key = 'backbone.conv1.weight'
    assert not torch.equal(first['state_dict'][key], other['state_dict'][key])


def test_a_study_that_was_copied_is_continued_where_it_lies_now(classification, blobs, tmp_path):
    out, _ = classification
    before, copy = set(out.rglob('*')), shutil.copytree(out, tmp_path / 'copy')
    run = copy / 'runs/pretrained/50/0'  # the first start, behind the finished one
    (run / 'measures.json').unlink()
    shutil.rmtree(run / 'training')
    given = dict(images=blobs, backbone=out.parent / 'snclr.pth', out=copy, compare='random')
    given |= dict(epochs=2, size=32, workers=0, amp='off', fractions=[50], seeds=1, resume=True)
    classify(**given)
    assert set(out.rglob('*')) == before
    assert (run / 'training/epoch_2.pth').is_file()
    assert str(out) not in (run / 'config.py').read_text()
    assert '| pretrained is ahead by, over seeds |' in (copy / 'summary.md').read_text()


def test_classifiers_are_not_gone_on_with_on_other_validation_images(classification, blobs):
    out, _ = classification
    given = dict(images=blobs, backbone=out.parent / 'snclr.pth', out=out, compare='random')
    given |= dict(epochs=2, size=32, workers=0, amp='off', fractions=[50], seeds=1, resume=True)
    assert len({point.images for point in classify(**given).points}) == 1
    listed = out / 'subsets/val.txt'
    listed.write_text('another\n' + listed.read_text())
    with pytest.raises(ValueError, match=r'val\.txt was written with other images'):
        classify(**given)


def test_classifiers_are_not_gone_on_with_by_other_labels(blobs, tmp_path, monkeypatch):
    def interrupt(*args):
        raise SystemExit

    def label(**corrected):
        for part in ('train', 'val'):
            rows = [
                f'{path},{corrected.get(path.stem, path.parent.name)}'
                for path in sorted(blobs.rglob('*.png'))
                if (path.stem in '123') == (part == 'val')
            ]
            (tmp_path / f'{part}.csv').write_text('\n'.join(['path,label', *rows]))

    monkeypatch.setattr(ClassifierTrainings, 'train', interrupt)
    backbone = pretrained_resnet(tmp_path / 'snclr.pth')
    given = dict(images=tmp_path / 'train.csv', val=tmp_path / 'val.csv', backbone=backbone)
    given |= dict(out=tmp_path / 'out', size=32, workers=0, seeds=1, resume=True)
    label()
    for _ in range(2):
        with pytest.raises(SystemExit):
            classify(**given)
    label(**{'1': 'red'})
    before = (tmp_path / 'out/labels.csv').read_text()
    with pytest.raises(ValueError, match=r'started otherwise \(images and their classes was'):
        classify(**given)
    assert (tmp_path / 'out/labels.csv').read_text() == before
    notes = json.loads((tmp_path / 'out/study.json').read_text())
    del notes['contents']  # as of the first versions
    (tmp_path / 'out/study.json').write_text(json.dumps(notes))
    with pytest.raises(SystemExit):
        classify(**given)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(fractions=[1]), 'fractions: 1 % of 16 labelled images are 0'),
        (dict(fractions=[50], batch=12), 'batch=12 must lie between'),
    ],
)
def test_too_few_images_are_refused_before_anything_is_trained(blobs, tmp_path, options, message):
    given = dict(images=blobs, backbone='random', out=tmp_path / 'out', size=32, workers=0)
    with pytest.raises(ValueError, match=message):
        classify(**given, **options)
    assert not finished(tmp_path / 'out') and not (tmp_path / 'out/study.json').exists()


def test_a_list_of_percents_is_asked_for(tmp_path):
    result = CliRunner().invoke(
        main, ['classify', 'x', '--backbone', 'random', '--out', 'y', '--fractions', 'half']
    )
    assert result.exit_code == 2 and "'half' is no list of percents" in result.stderr
