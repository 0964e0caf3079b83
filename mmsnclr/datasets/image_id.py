"""Identity of an image, stable across processes, epochs and runs."""

from collections.abc import Mapping
from hashlib import blake2b


def image_id(info: Mapping) -> int | None:
    """64-bit identity of an image.

    Args:
        info: A pipeline's ``results`` or a ``DataSample``: anything with
            ``get``.

    Returns:
        A signed 64-bit hash of ``img_path``, or ``sample_idx`` where there is
        no path, or ``None`` where there is neither. The path comes first
        because ``sample_idx`` repeats inside concatenated data sets.
    """
    path = info.get('img_path')
    if path is not None:
        digest = blake2b(str(path).encode(), digest_size=8).digest()
        return int.from_bytes(digest, 'little', signed=True)
    index = info.get('sample_idx')
    return None if index is None else int(index)
