"""The tutorial's notebook runs, and its page shows what it did."""

import re
import runpy
import shlex

import nbformat
import pytest
from click.testing import CliRunner
from helpers import ROOT

from mmsnclr.cli import main

NOTEBOOK = ROOT / 'docs/tutorial.ipynb'
# What the quick form does less of.
LESS = {
    '2000, (500, 500), (100, 50)': '64, (40, 20), (6, 3)',
    '--epochs 24': '--epochs 2',
    '--queries 6': '--queries 2',
    '--iterations 300': '--iterations 2',
}


def cells():
    """The code of each cell."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def shell(command):
    """Do what a shell does with a command of the tutorial."""
    program, *words = shlex.split(command)
    if program == 'mmsnclr':
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
    elif program == 'python':
        exec(words[1], {})
    return [program, *words][:2]


def test_each_cell_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = '\0'.join(cell.source for cell in cells())
    for much, less in LESS.items():
        assert source.count(much) == 1
        source = source.replace(much, less)
    ran, names = [], {}
    for code in source.split('\0'):
        kind, _, commands = code.partition('\n')
        if kind == '%%bash':
            ran += [shell(line) for line in commands.replace('\\\n', ' ').splitlines()]
        else:
            exec(code, names)
    verbs = [words[1] for words in ran if words[0] == 'mmsnclr']
    assert verbs == ['pretrain', 'report', 'neighbors', 'evaluate', 'detect', 'predict', 'export']
    assert (tmp_path / 'run/report.html').exists() and len(names['log']) > 1


def test_the_page_shows_what_was_said_and_drawn_and_no_folder_of_anyone():
    for cell in cells():
        assert cell.outputs, f'run it: python docs/pictures.py tutorial ({cell.source})'
    text = NOTEBOOK.read_text()
    assert not re.search(r'/(tmp|home|root|work)/', text) and 'Traceback' not in text
    assert NOTEBOOK.stat().st_size < 200_000


@pytest.mark.slow
def test_the_notebook_does_what_it_says(tmp_path):
    notebook = runpy.run_path(str(ROOT / 'docs/pictures.py'))['run_tutorial'](tmp_path)
    for cell in notebook.cells:
        assert cell.cell_type != 'code' or cell.outputs, cell.source
    assert not re.search(r'/(tmp|home|root|work)/', nbformat.writes(notebook))
