"""What an index offers: a wheel and an sdist, installed and used as anywhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import ROOT

pytestmark = pytest.mark.slow


def run(*command, **options):
    """Run a command that has to succeed; what it prints."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    result = subprocess.run(command, capture_output=True, text=True, env=env, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    """A folder with the sdist, and the wheel made from it."""
    folder = tmp_path_factory.mktemp('dist')
    source = tmp_path_factory.mktemp('source') / 'mmsnclr'
    others = (
        '.*_cache',
        '.git',
        '.venv',
        '__pycache__',
        '*.egg-info',
        'build',
        'data',
        'work_dirs',
    )
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*others))
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder)]
    run(*command, str(source))
    return folder


@pytest.fixture(scope='module')
def installed(dist, tmp_path_factory):
    """An environment that has mmsnclr from the wheel alone, and from here what it requires."""
    folder = tmp_path_factory.mktemp('user')
    run(sys.executable, '-m', 'venv', str(folder / 'venv'))
    python = folder / 'venv' / 'bin' / 'python'
    program = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    packages = Path(run(str(python), '-c', program).strip())
    (packages / 'ours.pth').write_text(str(Path(torch.__file__).parents[1]))
    command = [str(python), '-m', 'pip', 'install', '--no-index', '--find-links', str(dist)]
    run(*command, '--ignore-installed', '--no-deps', 'mmsnclr[onedl,onnx]')
    # Not installed anew, but looked for: fails where the wheel requires what is not there.
    run(*command, 'mmsnclr[onedl,onnx]')
    return folder, python


def test_the_metadata_renders(dist):
    run(sys.executable, '-m', 'twine', 'check', '--strict', *map(str, dist.iterdir()))


def test_the_sdist_holds_all_that_the_wheel_is_made_of(dist):
    (sdist,) = dist.glob('*.tar.gz')
    with tarfile.open(sdist) as tar:
        names = {name.partition('/')[2] for name in tar.getnames()}
    assert {'LICENSE', 'README.md', 'requirements/runtime.txt', 'setup.cfg'} <= names
    (wheel,) = dist.glob('*.whl')
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith('mmsnclr/')}
    assert (
        {'mmsnclr/.mim/configs/snclr_r50_800e.py', 'mmsnclr/.mim/tools/train.py'} <= held <= names
    )
    assert not any(name.startswith('tests/') for name in names)


def test_an_installed_wheel_works_in_another_folder(installed, digits):
    folder, python = installed
    program = 'import mmsnclr; print(mmsnclr.__file__)'
    assert Path(run(str(python), '-c', program, cwd=folder).strip()).is_relative_to(folder)
    command = str(python.parent / 'mmsnclr')
    assert 'mmsnclr' in run(command, 'doctor', cwd=folder)
    options = ['--epochs', '1', '--batch', '32', '--size', '32', '--gpus', '1']
    run(command, 'pretrain', str(digits / 'unlabelled'), '--out', 'run', *options, cwd=folder)
    assert (folder / 'run' / 'backbone.pth').exists()
    config = folder / 'config.py'
    parent = "_base_ = 'mmsnclr::_base_/../snclr_r50_800e.py'"
    config.write_text(f'{parent}\nmodel = dict(head=dict(neighbors=7))\n')
    program = (
        'import mmsnclr; from mmengine.config import Config; '
        "print(Config.fromfile('config.py').model.head.neighbors)"
    )
    assert run(str(python), '-c', program, cwd=folder).strip() == '7'
