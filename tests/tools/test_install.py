"""tools/install.sh, with a python, a uv and a df of the tests' own."""

import os

import pytest
from helpers import run_tool


@pytest.fixture
def install(tmp_path):
    """Run the installer with a python and a df of our own, into a new folder."""

    def run(python='exit 0', free=100, venv='venv'):
        df = f'[ -d "$2" ] && printf "h\\n- - - {free << 20}\\n"'
        for name, script in (('python', python), ('df', df)):
            (tmp_path / name).write_text(f'#!/bin/sh\n{script}\n')
            (tmp_path / name).chmod(0o755)
        path = f'{tmp_path}:{os.environ["PATH"]}'
        env = dict(PATH=path, PYTHON=str(tmp_path / 'python'), VENV=str(tmp_path / venv))
        return run_tool('tools/install.sh', **env)

    return run


@pytest.mark.parametrize(
    ('machine', 'message'),
    [
        (dict(python='case "$2" in *version_info*) exit 1;; *) echo Python 3.8.1;; esac'), '3.8.1'),
        (dict(python='case "$2" in *venv*) exit 1;; esac'), 'apt install python3-venv'),
        (dict(free=3, venv='new/venv'), '3 GiB free in {tmp_path}/new, 10 needed'),
    ],
    ids=['old_python', 'no_venv', 'little_disk'],
)
def test_the_installer_says_in_one_line_what_is_missing(install, machine, message, tmp_path):
    result = install(**machine)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith('install: ')
    assert message.format(tmp_path=tmp_path) in result.stderr


def test_the_installer_asks_for_less_room_where_torch_brings_no_cuda(
    install, tmp_path, monkeypatch
):
    monkeypatch.setenv('TORCH_INDEX', 'https://download.pytorch.org/whl/cpu')
    assert f'3 GiB free in {tmp_path}, 5 needed' in install(free=3).stderr


@pytest.mark.parametrize('missing', ['compiler', 'headers', 'nvcc'])
def test_the_installer_needs_what_builds_where_no_wheel_fits(
    install, tmp_path, missing, monkeypatch
):
    # A virtual environment in which pip succeeds but mmcv's operators never import.
    bin_folder = tmp_path / 'venv' / 'bin'
    bin_folder.mkdir(parents=True)
    headers = tmp_path / ('none' if missing == 'headers' else 'include')
    (tmp_path / 'include').mkdir()
    (tmp_path / 'include/Python.h').touch()
    script = f'case "$2" in *mmcv.ops*|*CUDA_HOME*) exit 1;; *sysconfig*) echo {headers};; esac'
    (bin_folder / 'python').write_text(f'#!/bin/sh\n{script}\n')
    (bin_folder / 'python').chmod(0o755)
    monkeypatch.setenv('CXX', 'no-such-compiler' if missing == 'compiler' else 'true')
    result = install()
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    cures = dict(
        compiler='apt install g++',
        headers='apt install python3-dev',
        nvcc='CUDA_VISIBLE_DEVICES= make install',
    )
    assert 'no wheel of onedl-mmcv' in line and cures[missing] in line


@pytest.mark.parametrize('uv', ['works', 'fails'])
def test_the_installer_hands_pips_settings_and_the_index_of_torch_on(
    install, tmp_path, uv, monkeypatch
):
    bin_folder, log = tmp_path / 'venv' / 'bin', tmp_path / 'log'
    bin_folder.mkdir(parents=True)
    links = '$UV_FIND_LINKS' if uv == 'works' else '$PIP_FIND_LINKS'
    for name, code in (('python', 0), ('uv', uv == 'fails')):
        script = f'echo "{name} {links} $*" >> {log}; exit {int(code)}'
        (bin_folder / name).write_text(f'#!/bin/sh\n{script}\n')
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv('PIP_FIND_LINKS', '/some/wheels /others')
    monkeypatch.setenv('TORCH_INDEX', 'https://example.org/cpu')
    result = install()
    assert result.returncode == 0, result.stderr
    lines = [line for line in log.read_text().splitlines() if 'requirements/torch.txt' in line]
    assert '--index-url https://example.org/cpu' in lines[-1]
    by = 'uv /some/wheels,/others' if uv == 'works' else 'python /some/wheels /others -m pip'
    assert lines[-1].startswith(by)
