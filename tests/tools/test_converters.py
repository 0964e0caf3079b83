"""Subsets of ImageNet: as published, or drawn."""

from collections import Counter

import pytest
from helpers import run_tool

TOOL = 'tools/dataset_converters/imagenet_subset.py'


@pytest.fixture
def imagenet(tmp_path):
    for name, count in (('n01', 200), ('n02', 40)):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / 'train' / name / f'{name}_{number}.JPEG').touch()
    return tmp_path


def read(root, percent):
    lines = (root / f'meta/train_{percent}percent.txt').read_text().splitlines()
    return [line.split() for line in lines]


def test_a_draw_is_the_same_share_of_each_class_and_says_that_it_is_a_draw(imagenet):
    run = run_tool(TOOL, str(imagenet), '--percent=10')
    assert run.returncode == 0 and 'not the subset of published results' in run.stdout
    first = read(imagenet, 10)
    assert Counter(label for _, label in first) == {'0': 20, '1': 4}
    assert all((imagenet / 'train' / path).exists() for path, _ in first)
    assert all(path.startswith(('n01', 'n02')[int(label)]) for path, label in first)
    run_tool(TOOL, str(imagenet), '--percent=10')
    assert read(imagenet, 10) == first
    run_tool(TOOL, str(imagenet), '--percent=10', '--seed=1')
    assert read(imagenet, 10) != first


def test_a_class_is_never_empty(imagenet):
    run_tool(TOOL, str(imagenet), '--percent=1')
    assert Counter(label for _, label in read(imagenet, 1)) == {'0': 2, '1': 1}


def test_a_published_list_is_followed(imagenet, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('n01_7.JPEG\nn02/n02_3.JPEG\n')
    run = run_tool(TOOL, str(imagenet), '--percent=1', f'--names={names}')
    assert run.returncode == 0
    assert read(imagenet, 1) == [['n01/n01_7.JPEG', '0'], ['n02/n02_3.JPEG', '1']]


def test_a_name_that_is_not_there_is_told_and_nothing_is_written(imagenet, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('n01_7.JPEG\nn09_1.JPEG\n')
    run = run_tool(TOOL, str(imagenet), '--percent=1', f'--names={names}')
    assert run.returncode and 'n09_1.JPEG' in run.stderr
    assert not (imagenet / 'meta').exists()


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [(['nowhere', '--percent=1'], 'nowhere'), (['.', '--percent=0'], '--percent')],
)
def test_bad_arguments_are_named(arguments, named):
    run = run_tool(TOOL, *arguments)
    assert run.returncode and named in run.stderr
