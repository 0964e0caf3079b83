"""The verbs of the command line as Python functions."""

from ..backbones import export_backbone as export
from ..backbones import import_backbone as import_checkpoint
from .detect import detect
from .doctor import doctor
from .embed import embed
from .neighbors import neighbors
from .predict import predict
from .pretrain import pretrain
from .report import report

__all__ = [
    'detect',
    'doctor',
    'embed',
    'export',
    'import_checkpoint',
    'neighbors',
    'predict',
    'pretrain',
    'report',
]
