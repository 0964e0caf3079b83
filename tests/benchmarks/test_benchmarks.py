"""The benchmarks run, and what they measure has not become slow or large."""

import sys

import pytest
import torch
from helpers import ROOT
from PIL import Image

from mmsnclr.datasets.digits import write_digits

pytestmark = pytest.mark.slow


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name in ('loss', 'step', 'pipeline', 'compare', 'cifar10', 'photographs', 'startup'):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(('dtype', 'time'), [('float32', 1.5), ('bfloat16', 1.5)])
def test_the_loss_is_faster_and_smaller_than_a_plain_one(benchmarks, dtype, time):
    import loss

    figures = loss.row(30, 128_000, dtype, rounds=5)
    assert float(figures['time'].removeprefix('1/')) > time
    assert float(figures['memory'].removeprefix('1/')) > 4
    assert float(figures['received_MB']) < 6


def test_its_time_does_not_grow_with_k(benchmarks):
    import loss

    slow, fast = (loss.in_turns({'': loss.ours(loss.problem(k))}, 7)[''] for k in (60, 5))
    assert slow / fast < 1.6


def test_views_are_faster_than_both_other_pipelines(benchmarks, tmp_path):
    import pipeline

    paths = pipeline.photographs(None, tmp_path)
    _, (_, _, stock), (_, _, pil) = pipeline.measure(paths, 3, 40, 0)
    assert float(stock) > 1.5
    assert float(pil) > 1


def test_a_step_costs_little_more_than_moco_v3s(benchmarks):
    import step
    from mmengine.logging import MessageHub

    MessageHub.get_current_instance().update_info('max_iters', 100)
    both = step.models('vit-s')
    adamw = step.optimizer_of('vit-s')
    steps = {name: step.stepper(model, adamw, 8, amp=False) for name, model in both.items()}
    times = step.in_turns(steps, 3)
    assert times['SNCLR'] < 1.5 * times['MoCo v3']  # a batch of 8: the set weighs more than at 32


def test_methods_are_compared_on_class_folders(benchmarks, digits, tmp_path, monkeypatch, capsys):
    import cifar10

    data = tmp_path / 'data'
    data.mkdir()
    (data / 'train').symlink_to(digits / 'labelled/train')
    (data / 'test').symlink_to(digits / 'labelled/val')
    command = ['cifar10.py', str(data), '--out', str(tmp_path / 'out'), '--seeds', '0', '1']
    command += ['--classes', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '--studies']
    command += ['--warmup', '2', '--epochs', '3', '--batch', '16']
    monkeypatch.setattr(sys, 'argv', command)
    cifar10.main()
    table = capsys.readouterr().out
    for name in (*cifar10.METHODS, *cifar10.STUDIES):
        assert f'| {name} ' in table
    assert (tmp_path / 'out/cifar10.png').stat().st_size > 10_000


def test_colours_are_taken_out_of_class_folders(benchmarks, tmp_path):
    import cifar10

    for split in ('train', 'test'):
        (tmp_path / split / 'red').mkdir(parents=True)
        Image.new('RGB', (8, 8), 'red').save(tmp_path / split / 'red' / 'one.jpg')
    for _ in range(2):  # the second finds them
        out = cifar10.choose_classes(tmp_path, tmp_path / 'out', ['red'], grey=True)
    (found,) = out.glob('test/red/*')
    assert Image.open(found).mode == 'L' and 70 < Image.open(found).getpixel((4, 4)) < 80


def test_pretrainings_are_compared_by_their_detectors(benchmarks, tmp_path):
    import photographs

    scenes = write_digits(tmp_path, 0, (0, 0), scenes=(32, 8)) / 'scenes'
    for split, folder in (('train', 'train'), ('test', 'val')):
        (tmp_path / split).symlink_to(scenes / folder)
        (tmp_path / f'{split}.json').symlink_to(scenes / f'{folder}.json')
    sizes = dict(view_size=32, pretrain_epochs=1, detector_size=64, iterations=2)
    for fractions in ([50], [50, 100]):  # the second goes on
        study = photographs.run(
            tmp_path, tmp_path / 'out', ['moco_v3'], fractions=fractions, seeds=2, **sizes
        )
    assert {(point.start, point.percent) for point in study.points} == {
        (start, percent) for start in ('pretrained', 'random') for percent in (50, 100)
    }
    assert all(len(point.values) == 2 for point in study.points)
    settings = (tmp_path / 'out/moco_v3/config.py').read_text()
    assert 'warmup_epochs=1000000' in settings and 'base_channels=16' in settings


@pytest.mark.parametrize('tars', [False, True])
def test_workers_share_the_list_of_images(benchmarks, tmp_path, tars):
    import startup

    (startup.write_tars if tars else startup.write_folders)(tmp_path, 50_000)
    if not tars:
        startup.in_process(startup.write_list, tmp_path)
    found = startup.measure(tmp_path, tars)
    first, *others = found.values()
    assert {row['images'] for row in found.values()} == {50_000}
    assert all(row['own'] < 25 for row in others)
    assert tars or all(row['own'] < first['own'] for row in others)
    assert len(startup.rows(found)) == len(found)
