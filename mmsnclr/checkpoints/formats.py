"""What a file is that is no checkpoint of torch, and what to do about it."""

import os
import pickletools
import re
from pathlib import Path
from zipfile import BadZipFile, ZipFile

_SAVE = 'where the model is at hand, save torch.save(model.state_dict(), path) instead'
_UNPACK = 'an archive: unpack it, and pass the checkpoint in it'
_CONVERT = 'convert its weights into a state dict of torch first'

# By the first bytes, regular expressions; `.` is any byte.
_BEGINNINGS = (
    (rb'version https://git-lfs', 'a pointer of git-lfs to the file: fetch that by `git lfs pull`'),
    (
        rb'\s*(<!doctype|<html|<\?xml|<head|<error|\{\s*"[\w ]+"\s*:)',
        'a text as a failed download leaves it (a web page, a message): download the file again',
    ),
    (rb'\x89HDF\r\n\x1a\n', f'an HDF5 file, as of Keras or TensorFlow: {_CONVERT}'),
    (rb'....TFL3', f'a model of TensorFlow Lite: {_CONVERT}'),
    (rb'GGUF', f'a GGUF file, as of llama.cpp: {_CONVERT}'),
    (rb'\x93NUMPY', f'an array of NumPy: {_CONVERT}'),
    (rb'\x08[\x01-\x20][\x12\x1a\x22\x32\x3a]', f'an ONNX graph: {_SAVE}'),
    (rb'\x1f\x8b\x08|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd', _UNPACK),
    (rb'.{257}ustar', _UNPACK),
    # A pickle without the number that torch's older files begin with.
    (
        rb'\x80[\x02-\x05](?!.{0,12}l\xfc\x9cF\xf9 j\xa8P\x19)',
        f'a pickle that torch did not write, as of Detectron2 or PaddlePaddle: {_CONVERT}',
    ),
)
_SUFFIXES = (
    (r'\.(pb|index|data-\d+-of-\d+)$', f'a file of TensorFlow: {_CONVERT}'),
    (r'\.msgpack$', f'a file of Flax: {_CONVERT}'),
)
# By a name in a zip archive.
_MEMBERS = (
    (
        r'(^|/)(constants\.pkl|code/)',
        f'a TorchScript program, which would run code: {_SAVE}',
    ),
    (
        r'(^|/)(archive_format|models/.*\.json|serialized_exported_program\.json)$',
        f'a program of torch.export: {_SAVE}',
    ),
    (r'\.h5$', f'a model of Keras: {_CONVERT}'),
    (r'\.npy$', f'an archive of NumPy, as of JAX: {_CONVERT}'),
)


def foreign_format(path: str | Path) -> str | None:
    """What a file is and what to do, in words, if it is none that torch's loader reads.

    ``None`` if it may be one; it is not read in full.
    """
    if not os.path.getsize(path):
        return 'empty, not written to its end: copy or download it again'
    with open(path, 'rb') as file:
        start = file.read(512)
    for pattern, words in _BEGINNINGS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return words
    for pattern, words in _SUFFIXES:
        if re.search(pattern, str(path)):
            return words
    if not start.startswith(b'PK\x03\x04'):
        return None
    try:
        with ZipFile(path) as archive:
            return _in_archive(archive)
    except (BadZipFile, EOFError, NotImplementedError, OSError, ValueError):
        return None  # damaged, of which the loader tells


def _in_archive(archive: ZipFile) -> str | None:
    names = archive.namelist()
    for pattern, words in _MEMBERS:
        if any(re.search(pattern, name) for name in names):
            return words
    pickles = [name for name in names if name.endswith('data.pkl')]
    return None if pickles else _UNPACK


def whole_object(path: str | Path) -> str | None:
    """The class of what was saved, if that is an object instead of a dictionary or list."""
    try:
        with ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith('data.pkl'))
            with archive.open(name) as pickle:
                operations = pickletools.genops(pickle)
                next(operations)  # the protocol
                operation, value, _ = next(operations)
    except (BadZipFile, EOFError, NotImplementedError, OSError, StopIteration, ValueError):
        return None
    whole = operation.name == 'GLOBAL' and value != 'collections OrderedDict'  # a state dict
    return str(value).replace(' ', '.') if whole else None
