"""The verbs of the command line as Python functions."""

from .detect import detect
from .embed import embed
from .export import export
from .import_ import import_checkpoint
from .neighbors import neighbors
from .predict import predict
from .pretrain import pretrain
from .report import report

__all__ = [
    'detect',
    'embed',
    'export',
    'import_checkpoint',
    'neighbors',
    'predict',
    'pretrain',
    'report',
]
