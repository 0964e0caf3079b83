"""The command-line tools, run as a user runs them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT, run_tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmsnclr import requirements

SMALL = (
    'train_dataloader.batch_size=16',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
    'custom_hooks.0.warmup_epochs=0',
    'model.queue.length=64',
    'model.head.neighbors=4',
)


def last_values(work_dir):
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return json.loads(log.read_text().splitlines()[-1])


def test_two_processes_train_by_gloo_and_batch_norm_is_said(digits, tmp_path):
    data = f'train_dataloader.dataset.data_root={digits / "unlabelled"}'
    result = run_tool(
        'tools/dist_train.sh',
        'configs/demo/snclr_digits.py',
        '2',
        '--work-dir',
        str(tmp_path),
        '--cfg-options',
        *SMALL,
        data,
    )
    assert result.returncode == 0, result.stderr
    assert 'joined by gloo' in result.stderr
    assert 'SyncBN layers became BN' in result.stdout + result.stderr
    values = last_values(tmp_path)
    assert values['step'] == 3  # 96 images, 2 x 16 in a batch
    assert 'neighbor_similarity' in values  # 32 keys after the first step


@pytest.mark.parametrize(
    ('gpus', 'env', 'message'),
    [
        ('3', dict(NNODES='2'), 'set NNODES to a divisor'),
        ('none', {}, 'GPUS must be a positive number'),
        ('2', dict(NNODES='0'), 'NNODES must be a positive number'),
    ],
)
def test_wrong_numbers_of_gpus_are_refused(gpus, env, message):
    result = run_tool('tools/dist_train.sh', 'configs/snclr_r50_800e.py', gpus, **env)
    assert result.returncode == 2 and message in result.stderr


@pytest.mark.parametrize('wrong', ['PATH[$(touch {})0]', '08', '-1', '1.5'])
@pytest.mark.parametrize(
    ('tool', 'setting'),
    [
        ('dist', 'GPUS'),
        ('dist', 'NNODES'),
        ('dist', 'NODE_RANK'),
        ('dist', 'MAX_RESTARTS'),
        ('dist', 'PORT'),
        ('slurm', 'GPUS'),
        ('slurm', 'GPUS_PER_NODE'),
        ('slurm', 'PORT'),
    ],
)
def test_a_setting_that_is_no_number_is_named_and_not_evaluated(tmp_path, tool, setting, wrong):
    (tmp_path / 'srun').write_text('#!/bin/sh\n')
    (tmp_path / 'srun').chmod(0o755)
    wrong = wrong.format(tmp_path / 'ran')
    env = dict(GPUS='8', MAX_RESTARTS='1') | {setting: wrong}
    first = ('part', 'job') if tool == 'slurm' else ()
    result = run_tool(
        f'tools/{tool}_train.sh',
        *(*first, 'configs/snclr_r50_800e.py', env.pop('GPUS')),
        **env,
        PYTHON=fake_python(tmp_path, 8),
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
    )
    assert result.returncode == 2
    assert f'{setting} must be a' in result.stderr and wrong in result.stderr
    assert not (tmp_path / 'ran').exists()


def fake_python(folder, devices):
    """A python that reports some CUDA devices and prints what else it is asked to run."""
    path = folder / 'python'
    path.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo {devices}; else echo "$@"; fi\n')
    path.chmod(0o755)
    return str(path)


def test_the_number_of_gpus_is_the_total_over_all_nodes(tmp_path):
    env = dict(NNODES='4', NODE_RANK='3', MASTER_ADDR='10.0.0.1', PORT='1234')
    result = run_tool(
        'tools/dist_train.sh',
        'configs/snclr_r50_800e.py',
        '32',
        '--amp',
        **env,
        PYTHON=fake_python(tmp_path, 8),
    )
    for flag in (
        '--nnodes=4',
        '--node-rank=3',
        '--nproc-per-node=8',
        '--master-addr=10.0.0.1',
        '--master-port=1234',
        'snclr_r50_800e.py --launcher pytorch --amp',
    ):
        assert flag in result.stdout


def test_a_signal_to_the_whole_job_does_not_end_torchrun(tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nif [ "$1" = -c ]; then echo 0; else cat /proc/self/status; fi\n')
    python.chmod(0o755)
    result = run_tool(
        'tools/dist_train.sh', 'configs/demo/snclr_digits.py', '1', PYTHON=str(python)
    )
    (ignored,) = re.findall(r'SigIgn:\s+(\w+)', result.stdout)
    assert int(ignored, 16) >> (signal.SIGUSR1 - 1) & 1


def test_a_port_that_is_taken_is_named_in_a_line():
    with socket.socket() as other:
        other.bind(('', 0))
        other.listen()
        port = str(other.getsockname()[1])
        command = ('tools/dist_train.sh', 'configs/demo/snclr_digits.py', '2')
        result = run_tool(*command, PORT=port)
    assert result.returncode == 2
    *_, line = result.stderr.splitlines()
    assert f'port {port} cannot be used' in line and 'set PORT' in line
    assert 'Traceback' not in result.stderr


def test_dist_test_takes_the_checkpoint_before_the_number_of_gpus(tmp_path):
    result = run_tool(
        'tools/dist_test.sh',
        'configs/linear_r50_in1k.py',
        'epoch_90.pth',
        '8',
        PYTHON=fake_python(tmp_path, 8),
    )
    assert '--nproc-per-node=8' in result.stdout
    assert 'linear_r50_in1k.py --launcher pytorch epoch_90.pth' in result.stdout


def test_more_gpus_than_the_node_has_are_refused(tmp_path):
    result = run_tool(
        'tools/dist_train.sh',
        'configs/snclr_r50_800e.py',
        '32',
        PYTHON=fake_python(tmp_path, 8),
    )
    assert result.returncode == 2
    assert 'this node has 8: set NNODES' in result.stderr


def test_slurm_gets_the_total_and_the_share_of_a_node(tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@" at $MASTER_PORT\n')
    srun.chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    command = ('tools/slurm_train.sh', 'part', 'job', 'configs/snclr_r50_800e.py', '32')
    one, other = (run_tool(*command, PATH=path, PORT=port) for port in ('', '1234'))
    assert '--ntasks=32 --ntasks-per-node=8' in one.stdout
    assert '--launcher slurm' in one.stdout
    assert re.search(r'at [23]\d{4}\n', one.stdout) and 'at 1234' in other.stdout
    result = run_tool('tools/slurm_train.sh', 'part', 'job', 'c.py', '12', PATH=path)
    assert result.returncode == 2 and 'GPUS_PER_NODE' in result.stderr


@pytest.mark.parametrize('code', [75, 1])
def test_slurm_requeues_a_batch_job_that_saved_and_left(tmp_path, code):
    for name, script in (('srun', f'exit {code}'), ('scontrol', 'echo scontrol "$@"')):
        (tmp_path / name).write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / name).chmod(0o755)
    # Slurm runs a copy of the script.
    shutil.copy(ROOT / 'tools/slurm_train.sh', tmp_path / 'slurm_script')
    result = run_tool(
        str(tmp_path / 'slurm_script'),
        *('part', 'job', 'configs/snclr_r50_800e.py', '32'),
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        SLURM_JOB_ID='123',
    )
    assert result.returncode == code
    assert result.stdout == ('scontrol requeue 123\n' if code == 75 else '')


def test_train_test_and_knn_work_on_one_checkpoint(digits, tmp_path):
    root = digits / 'labelled'
    data = [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val', 'test')]
    result = run_tool(
        'tools/train.py',
        'configs/demo/linear_digits.py',
        '--work-dir',
        str(tmp_path / 'linear'),
        '--amp',
        '--cfg-options',
        'model.backbone.init_cfg=None',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        *data,
    )
    assert result.returncode == 0, result.stderr
    accuracy = last_values(tmp_path / 'linear')['accuracy/top1']
    checkpoint = str(tmp_path / 'linear' / 'epoch_1.pth')
    common = ['--cfg-options', 'model.backbone.init_cfg=None', *data]
    result = run_tool(
        'tools/test.py',
        'configs/demo/linear_digits.py',
        checkpoint,
        '--work-dir',
        str(tmp_path / 'test'),
        *common,
        'resume=True',  # as in the configs that the verbs write
    )
    assert f'accuracy/top1: {accuracy:.4f}' in result.stdout + result.stderr
    command = ['tools/knn.py', 'configs/demo/linear_digits.py', checkpoint]
    result = run_tool(*command, '-k', '20', '5', *common)
    assert result.returncode == 0, result.stderr
    assert 'k-NN top-1 (k = 20):' in result.stdout and '(k = 5):' in result.stdout


def test_test_names_a_missing_checkpoint():
    result = run_tool('tools/test.py', 'configs/demo/linear_digits.py', 'none.pth')
    assert result.returncode == 2 and "no checkpoint at 'none.pth'" in result.stderr


def test_auto_scale_lr_needs_the_intended_batch_size(tmp_path):
    result = run_tool(
        'tools/train.py',
        'configs/demo/snclr_digits.py',
        '--auto-scale-lr',
        '--work-dir',
        str(tmp_path),
    )
    assert result.returncode != 0 and 'auto_scale_lr.base_batch_size' in result.stderr


def test_requirements_name_what_is_missing_or_out_of_range():
    with pytest.raises(ImportError, match=r'nonexistent >= 1\.0.*mmengine >= 99.*\.\[onedl\]'):
        requirements.check_requirements(
            {'nonexistent': ('1.0', '2.0'), 'mmengine': ('99.0.0', '100.0.0')}
        )


def test_ci_pins_all_that_it_installs():
    def read(name):
        lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
        return [Requirement(line) for line in lines if not line.startswith('#')]

    def key(requirement):
        return canonicalize_name(requirement.name)

    pins = {key(pin): str(pin.specifier).removeprefix('==') for pin in read('ci')}
    assert all(re.fullmatch(r'[\d.]+((post|b)\d+)?', version) for version in pins.values())
    for name in ('torch', 'onedl', 'runtime', 'docs', 'onnx', 'tests'):
        for requirement in read(name):
            assert pins[key(requirement)] in requirement.specifier


def test_pretraining_needs_neither_mmdet_nor_operators_nor_an_old_transformers(tmp_path):
    """In one process, as it has to import everything anew."""
    for path, text in {
        'transformers/__init__.py': '',  # mmpretrain's models of text need version 4
        'transformers-5.0.0.dist-info/METADATA': 'Name: transformers\nVersion: 5.0.0\n',
    }.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    # A finder that hides what an ops-free machine lacks.
    program = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmdet' or name == 'mmcv._ext':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import mmsnclr
from mmsnclr.requirements import check_detection_requirements
print('imported', mmsnclr.__version__)
check_detection_requirements()
"""
    result = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, cwd=tmp_path
    )
    assert 'imported' in result.stdout
    assert "mmsnclr: detection needs mmcv's compiled operators" in result.stderr


def test_the_wheel_holds_configs_and_tools(tmp_path):
    names = ('mmsnclr', 'configs', 'tools', 'requirements', 'setup.cfg', 'pyproject.toml')
    (tmp_path / 'source').mkdir()
    for name in (*names, 'README.md', 'LICENSE', 'model-index.yml'):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / 'source' / name)
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q']
    subprocess.run([*command, '-w', str(tmp_path), str(tmp_path / 'source')], check=True)
    (wheel,) = tmp_path.glob('mmsnclr-*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        'mmsnclr/models/snclr.py',
        'mmsnclr/.mim/configs/snclr_r50_800e.py',
        'mmsnclr/.mim/configs/_base_/snclr_r50.py',
        'mmsnclr/.mim/tools/train.py',
        'mmsnclr/.mim/tools/dist_train.sh',
        'mmsnclr/.mim/model-index.yml',
    ):
        assert name in names
    metadata = zipfile.ZipFile(wheel).read(
        next(name for name in names if name.endswith('METADATA'))
    )
    required = [line for line in metadata.decode().splitlines() if line.startswith('Requires-Dist')]
    family = re.compile(r'\b(onedl-)?mm(cv|det|engine|pretrain)')
    assert sum(bool(family.search(line)) for line in required) == 8  # four in each extra
    assert not any(family.search(line) for line in required if 'extra ==' not in line)
