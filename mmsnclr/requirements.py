"""What the package needs of the OpenMMLab libraries.

The maintained forks (``onedl-*``) and the originals share their import names,
so the package's metadata can require neither; importability and version are
checked here instead.
"""

import contextlib
import io
import warnings
from importlib import import_module

from packaging.version import Version

# package: (lowest supported version, first unsupported version)
SUPPORTED = {
    'mmengine': ('0.10.3', '1.0.0'),
    'mmcv': ('2.0.0', '2.4.0'),
    'mmpretrain': ('1.2.0', '2.0.0'),
}
SUPPORTED_FOR_DETECTION = {'mmdet': ('3.3.0', '4.0.0')}

_INSTALL = (
    'In a clone of mmsnclr install one family: `pip install ".[onedl]"` (the maintained forks) or '
    '`pip install ".[openmmlab]"` (the original packages).'
)


def check_requirements(supported: dict[str, tuple[str, str]] = SUPPORTED) -> None:
    """Check that packages can be imported and are in their supported range.

    Args:
        supported: For each package the lowest supported version and the first
            one that is not supported.

    Raises:
        ImportError: Names every package that is missing or out of range.
    """
    problems = []
    for package, (lowest, below) in supported.items():
        wanted = f'{package} >= {lowest}, < {below}'
        try:
            version = import_module(package).__version__
        except (ImportError, AssertionError) as error:
            problems.append(f'{wanted} cannot be imported ({error})')
            continue
        if not Version(lowest).release <= Version(version).release < Version(below).release:
            problems.append(f'{wanted} is needed, but {version} is installed')
    if problems:
        raise ImportError(f'mmsnclr: {"; ".join(problems)}. {_INSTALL}')


def check_detection_requirements() -> None:
    """Check that mmdet and mmcv's compiled operators are there.

    Raises:
        ImportError: Says what is missing and how to install it.
    """
    try:
        import_module('mmcv._ext')
    except ImportError as error:
        raise ImportError(
            "mmsnclr: detection needs mmcv's compiled operators, and the mmcv that is installed "
            f'offers none ({error}); pretraining and linear evaluation work without them. Install '
            'an mmcv wheel built for your torch and Python, or build it: '
            '`rm .venv/.installed && make install` does either'
        ) from error
    check_requirements(SUPPORTED_FOR_DETECTION)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # A fork of mmdet prints which data sets it does without, and asks for a package that only
        # one of its metrics needs.
        warnings.filterwarnings('ignore', 'faster_coco_eval')
        import_module('mmdet.evaluation')
