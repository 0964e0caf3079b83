"""What is installed, and what would keep it from working."""

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import NamedTuple

import torch
from packaging.version import Version

from ..requirements import (
    SUPPORTED,
    SUPPORTED_FOR_DETECTION,
    check_detection_requirements,
    check_requirements,
)
from ..version import __version__

_GIB = 2**30
_ONNX = ('onnx', 'onnxruntime', 'onnxscript')


class Finding(NamedTuple):
    """Something that was looked at.

    Attributes:
        name: What it is.
        state: What was found.
        fix: What to do about it; ``None`` if it is well.
    """

    name: str
    state: str
    fix: str | None = None


def doctor(folder: str | Path = '.') -> list[Finding]:
    """Look at the installation and the machine.

    Args:
        folder: Where runs will write.

    Returns:
        What was found, from the libraries to the disk.
    """
    return [
        Finding('mmsnclr', f'{__version__}, Python {platform.python_version()}'),
        Finding('system', f'{platform.platform()}, {len(os.sched_getaffinity(0))} cores'),
        _torch(),
        *_libraries(),
        _operators(),
        *_devices(),
        _compiler(),
        _onnx(),
        _open_files(),
        _space('disk', Path(folder), 10, 'checkpoints need room: free some, or write elsewhere'),
        _shared_memory(),
    ]


def _torch() -> Finding:
    state = f'{torch.__version__}, torchvision {version("torchvision")}, timm {version("timm")}'
    fix = None
    if Version(torch.__version__) < Version('2.4'):
        fix = 'resuming needs TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, or torch 2.4'
    return Finding('torch', state, fix)


def _libraries() -> Iterator[Finding]:
    """The OpenMMLab packages, and of which family each is."""
    owners = packages_distributions()
    for package, supported in (SUPPORTED | SUPPORTED_FOR_DETECTION).items():
        of = ', '.join(sorted(set(owners.get(package, ()))))
        try:
            check_requirements({package: supported})
        except ImportError as error:
            yield Finding(package, of or 'missing', str(error).removeprefix('mmsnclr: '))
            continue
        yield Finding(package, f'{import_module(package).__version__}, of {of}')


def _operators() -> Finding:
    name = "mmcv's operators"
    try:
        check_detection_requirements()
    except ImportError as error:
        return Finding(name, 'missing', str(error).removeprefix('mmsnclr: '))
    from mmcv.ops import get_compiling_cuda_version

    built = get_compiling_cuda_version()
    if built != 'not available':
        return Finding(name, f'there, for CUDA {built}')
    fix = 'detection on a GPU needs them built for CUDA: build mmcv on this machine'
    return Finding(name, 'there, for CPUs alone', fix if torch.cuda.is_available() else None)


def _devices() -> Iterator[Finding]:
    """What trains."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            reason = f'torch {torch.__version__} is built without CUDA'
        else:
            reason = f'torch is built for CUDA {torch.version.cuda} and finds no device or driver'
        yield Finding('device', f'CPU ({reason})')
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        state = f'{device.name}, {device.total_memory / _GIB:.0f} GiB'
        auto = 'bfloat16' if device.major >= 8 else 'float16 with a loss scaler'
        yield Finding(f'GPU {index}', f'{state}; --amp auto is {auto}')


def _compiler() -> Finding:
    name = os.environ.get('CXX', 'c++')
    if shutil.which(name):
        return Finding('C++ compiler', name)
    return Finding(
        'C++ compiler', 'none', 'torch.compile and building mmcv need one: apt install g++'
    )


def _onnx() -> Finding:
    found = {}
    for package in _ONNX:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            fix = f'`export --to onnx` needs it: pip install {" ".join(_ONNX)}'
            return Finding('ONNX', f'{package} is missing', fix)
    return Finding('ONNX', ', '.join(f'{name} {found[name]}' for name in _ONNX))


def _open_files() -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fix = 'processes that load images may end by "Too many open files": ulimit -n 65536'
    return Finding('open files', f'up to {limit:,}', fix if 0 <= limit < 1024 else None)


def _space(name: str, folder: Path, least: float, fix: str) -> Finding:
    free = shutil.disk_usage(folder).free / _GIB
    return Finding(name, f'{free:,.1f} GiB free in {folder}', fix if free < least else None)


def _shared_memory() -> Finding:
    folder = Path('/dev/shm')
    if not folder.is_dir():
        return Finding('shared memory', 'no /dev/shm here')
    fix = 'loading images in processes needs more: docker run --shm-size=8g, or --workers 0'
    return _space('shared memory', folder, 1, fix)
