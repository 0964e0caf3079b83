"""Identity of an image, stable across processes, epochs and runs."""

from collections.abc import Mapping
from hashlib import blake2b

from .shards import extracted_path


def image_id(info: Mapping) -> int | None:
    """64-bit identity of an image, from anything with ``get``: results of a pipeline, a DataSample.

    A signed hash of ``img_path`` or, without it, ``sample_idx``, which repeats inside
    concatenated data sets; ``None`` where there is neither. An image in a tar is the one that
    lies in a folder of the tar's name (without ``.tar``) once it is extracted into that.
    """
    path = info.get('img_path')
    if path is not None:
        name = extracted_path(str(path)).encode('utf-8', 'surrogateescape')  # of any bytes
        digest = blake2b(name, digest_size=8).digest()
        return int.from_bytes(digest, 'little', signed=True)
    index = info.get('sample_idx')
    return None if index is None else int(index)
