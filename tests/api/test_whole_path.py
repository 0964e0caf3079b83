"""From a folder of images to a detector, by the verbs of the command line alone."""

import json

import pytest
from helpers import run_tool

from mmsnclr.cli import main


def mmsnclr(*arguments, **kwargs):
    result = run_tool('-m', 'mmsnclr', *map(str, arguments), **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_help_fits_a_screen_and_every_verb_has_an_example():
    text = mmsnclr('--help')
    assert text.startswith('Usage: ') and len(text.splitlines()) <= 24
    verbs = text.partition('Commands:')[2].split('\n')
    verbs = [line.split()[0] for line in verbs if line.strip()]
    assert len(verbs) > 8 and verbs == list(main.commands)


@pytest.mark.slow  # by a process for each verb; the tutorial's test does most of it in one
def test_images_become_a_detector(digits, scenes, tmp_path):
    pytest.importorskip('mmdet')
    run = tmp_path / 'run'
    mmsnclr(
        *('pretrain', digits / 'unlabelled', '--out', run, '--backbone', 'r18'),
        *('--size', 32, '--epochs', 2, '--batch', 32, '--workers', 0),
    )
    checkpoint = run / 'backbone.pth'
    mmsnclr('neighbors', run, digits / 'labelled/val', '--labels', 'folders')
    mmsnclr('embed', checkpoint, digits / 'labelled/val', '--out', tmp_path / 'features')
    mmsnclr('report', run)
    mmsnclr('export', checkpoint, tmp_path / 'backbone.pth', '--to', 'timm')
    mmsnclr('import', tmp_path / 'backbone.pth', tmp_path / 'back.pth')
    mmsnclr(
        *('detect', scenes / 'train.json', scenes / 'train', '--backbone', checkpoint),
        *('--out', tmp_path / 'detector', '--size', 64, '--iterations', 4, '--workers', 0),
    )
    trained = tmp_path / 'detector/training/iter_4.pth'
    mmsnclr('predict', trained, scenes / 'val', '--out', tmp_path / 'found', '--threshold', 0)
    for name in (
        'run/neighbors.html',
        'run/neighbors.png',
        'run/report.html',
        'features/features.npz',
        'features/projection.png',
        'detector/summary.md',
        'detector/precision_recall.png',
    ):
        assert (tmp_path / name).stat().st_size > 500, name
    assert json.loads((tmp_path / 'found/predictions.json').read_text())
