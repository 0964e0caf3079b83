"""The demo in its quick form, end to end."""

import contextlib
import re
import runpy
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT, run_tool

from mmsnclr.datasets import digits


def run_warm(command, **_):
    """What Popen gives of a command of the demo: one that has ended, whose modules were there."""
    done = run_tool(*command[1:])
    print(done.stderr, file=sys.stderr)
    lines = done.stdout.splitlines(keepends=True)
    return contextlib.nullcontext(SimpleNamespace(stdout=lines, returncode=done.returncode))


def test_the_demo_removes_nothing_but_an_earlier_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / 'detector').mkdir()
    monkeypatch.setattr(sys, 'argv', ['tools/demo.py', '--quick', '--out', str(tmp_path)])
    with pytest.raises(SystemExit, match='detector is not of a demo'):
        runpy.run_path('tools/demo.py', run_name='__main__')
    assert [path.name for path in tmp_path.iterdir()] == ['detector']

    def draw(folder, **_):
        raise SystemExit(f'{[path.name for path in folder.parent.iterdir()]} were there')

    (tmp_path / 'digits/labelled').mkdir(parents=True)  # of a demo that was interrupted
    monkeypatch.setattr(digits, 'write_digits', draw)
    with pytest.raises(SystemExit, match=r'\[\] were there'):
        runpy.run_path('tools/demo.py', run_name='__main__')


def test_the_demo_shows_its_commands_and_leaves_all_that_it_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(subprocess, 'Popen', run_warm)
    monkeypatch.setattr(sys, 'argv', ['tools/demo.py', '--quick', '--out', str(tmp_path)])
    runpy.run_path('tools/demo.py', run_name='__main__')
    printed = capsys.readouterr().out
    summary = (tmp_path / 'summary.md').read_text()
    figures = re.findall(r'\| (.+?) \| ([\d.]+) \| ([\d.]*) ?\|', summary)
    assert [name.split(',')[0] for name, *_ in figures] == [
        'k-NN top-1 (k = 20)',
        'linear evaluation top-1',
        'Mask R-CNN box AP',
        'Mask R-CNN mask AP',
    ]
    assert all(0 <= float(value) <= 100 for _, *pair in figures for value in pair if value)
    assert (tmp_path / 'snclr' / 'epoch_2.pth').is_file()
    assert (tmp_path / 'detector' / 'summary.md').is_file()
    assert 'Epoch(train) [2]' in printed and 'Iter(val)' in printed

    lines = printed.replace('\\\n', '').splitlines()  # commands go over several lines
    commands = [shlex.split(line[1:]) for line in lines if line.startswith('$ ')]
    assert [command[:2] for command in commands] == [
        ['python', 'tools/train.py'],
        ['mmsnclr', 'neighbors'],
        ['python', 'tools/knn.py'],
        ['python', 'tools/knn.py'],
        ['python', 'tools/train.py'],
        ['mmsnclr', 'detect'],
    ]
    assert (tmp_path / 'neighbors.png').stat().st_size > 10_000
