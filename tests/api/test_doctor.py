"""`mmsnclr doctor`: what is installed, and what to mend."""

import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from click.testing import CliRunner
from helpers import ROOT
from mmengine import __version__ as mmengine_version

from mmsnclr.cli import main


def told():
    """The exit code and each line of the findings; what to do follows after an arrow."""
    result = CliRunner().invoke(main, ['doctor'])
    return result.exit_code, result.output.replace('\n' + 19 * ' ', ' ').splitlines()


@pytest.fixture
def well(monkeypatch):
    """A machine on which nothing is amiss."""
    space = namedtuple('space', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: space(0, 0, 2**40))
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: (65_536, 65_536))


def test_a_sound_installation_is_called_well(well):
    code, lines = told()
    assert code == 0 and lines[-1] == 'All is well.'
    assert not any('->' in line for line in lines)
    text = '\n'.join(lines)
    assert torch.__version__ in text and f'mmengine         {mmengine_version}' in text
    assert 'CPU (torch is built' in text


@pytest.mark.parametrize(
    ('break_it', 'finding', 'fix'),
    [
        (lambda m: m.setitem(sys.modules, 'mmcv._ext', None), "mmcv's operators", 'build it'),
        (lambda m: m.setattr('mmdet.__version__', '3.2.0'), 'mmdet', 'mmdet >= 3.3.0'),
        (lambda m: m.setattr(shutil, 'which', lambda name: None), 'C++ compiler', 'install g++'),
        (lambda m: m.setattr(resource, 'getrlimit', lambda _: (256, 256)), 'open files', 'ulimit'),
        (
            lambda m: m.setattr(
                shutil, 'disk_usage', lambda f: namedtuple('x', 'free')(2**35 * (str(f) == '.'))
            ),
            'shared memory',
            '--shm-size',
        ),
    ],
)
def test_what_is_amiss_stands_beside_what_to_do(well, monkeypatch, break_it, finding, fix):
    break_it(monkeypatch)
    code, lines = told()
    assert code == 1
    (line,) = (line for line in lines if line.startswith(f'! {finding}'))
    assert fix in line.partition('->')[2]


def test_a_gpu_is_named_with_its_precision(well, monkeypatch):
    device = namedtuple('device', 'name total_memory major')('A card', 80 * 2**30, 7)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda index: device)
    _, lines = told()
    assert any(
        'GPU 0' in line and 'A card, 80 GiB; --amp auto is float16' in line for line in lines
    )


def test_a_command_without_its_packages_ends_in_a_line(tmp_path):
    (tmp_path / 'mmengine.py').write_text("raise ImportError('hidden')")
    result = subprocess.run(
        [sys.executable, '-m', 'mmsnclr', 'doctor'],
        env=os.environ | dict(PYTHONPATH=str(tmp_path)),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1 and line.startswith('Error: mmsnclr: mmengine >= ')
    assert 'cannot be imported (hidden)' in line and 'pip install' in line
