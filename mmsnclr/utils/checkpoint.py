"""The weights in a checkpoint file, and nothing else of it."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

# What rebuilds tensors; torch itself resolves the storages.
_TRUSTED = {
    ('collections', 'OrderedDict'),
    ('torch', 'Size'),
    ('torch._utils', '_rebuild_parameter'),
    ('torch._utils', '_rebuild_tensor_v2'),
}


class _Inert:
    """Stands for every object that is not a weight; no code of the file runs."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __call__(self, *args, **kwargs) -> '_Inert':
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = append


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TRUSTED or isinstance(getattr(torch, name, None), torch.dtype):
            return super().find_class(module, name)
        return _Inert


def _load(file, **kwargs) -> Any:
    return _Unpickler(file, **kwargs).load()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code that it may hold.

    Training codes store more than weights, which ``torch.load`` then refuses or
    unpickles at one's own risk. Here all but tensors and plain values become
    empty objects.

    Args:
        path: A file of torch or safetensors.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no checkpoint {str(path)!r}')
    try:
        if Path(path).suffix == '.safetensors':
            return load_file(path)
        module = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__='pickle')
        content = torch.load(path, map_location='cpu', pickle_module=module, weights_only=False)
    # A file that is no checkpoint fails in any part of its format.
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a checkpoint: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no dictionary of weights but a {type(content).__name__}')
    return content
