"""The candidate neighbour set C and its search (Eq. 3)."""

from typing import Any, NamedTuple

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import exact_float32

# Identity and class of an image that has none.
UNKNOWN = -1
# Width of the blocks in which a search looks for its best.
_BLOCK = 32


class Neighbors(NamedTuple):
    """Nearest entries of the candidate set for N queries.

    Attributes:
        index: Positions in the set, ``(N, K)``, most similar first.
        similarity: Their cosine similarity, ``(N, K)``.
        valid: ``False`` where fewer than K entries were eligible, ``(N, K)``.
    """

    index: Tensor  # type: ignore[assignment]  # in the place of tuple's method
    similarity: Tensor
    valid: Tensor


@MODELS.register_module()
class NeighborQueue(nn.Module):
    """First-in-first-out set of past momentum features.

    The candidate neighbour set C of SNCLR (ICLR 2023, Sec. 3.2, "Candidate
    Neighbors"). It starts empty, and only entries that have been filled are
    ever searched. Pointer and fill are kept on the host,
    so neither search nor enqueue waits for the device.

    Args:
        length: Number of entries; the paper uses 128,000.
        dim: Width of a feature; the paper uses 256.
        dtype: ``'float32'``, ``'bfloat16'`` or ``'float16'``. The half types
            halve memory; features are rounded when they are enqueued.
        sync: Whether all ranks hold the same set, filled from the global batch
            (default). ``False`` gives each rank a set of its own, filled from
            its own batch, as the authors' released code does; such sets are
            left out of ``state_dict``, and
            :class:`~mmsnclr.engine.hooks.NeighborQueueHook` saves one file per rank.

    Raises:
        ValueError: If ``length`` or ``dtype`` makes no sense, and on loading a
            checkpoint whose set has another length or width.
    """

    _DTYPES = {
        'float32': torch.float32,
        'bfloat16': torch.bfloat16,
        'float16': torch.float16,
    }
    # Entries that are searched at once; bounds the memory of a search.
    _CHUNK = 32_768
    features: Tensor
    ids: Tensor
    labels: Tensor
    enqueued: Tensor

    def __init__(
        self,
        length: int = 128_000,
        dim: int = 256,
        dtype: str = 'float32',
        sync: bool = True,
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f'queue.length={length} must be at least 1')
        if dtype not in self._DTYPES:
            raise ValueError(f'queue.dtype={dtype!r} must be one of {list(self._DTYPES)}')
        self.length = length
        self.dim = dim
        self.sync = sync
        self._enqueued = 0
        features = torch.zeros(length, dim, dtype=self._DTYPES[dtype])
        self.register_buffer('features', features, persistent=sync)
        for name in ('ids', 'labels'):
            self.register_buffer(name, torch.full((length,), UNKNOWN), persistent=sync)
        # How many features ever entered; the host's copy is what is used.
        self.register_buffer('enqueued', torch.tensor(0), persistent=sync)

    @property
    def fill(self) -> int:
        """Number of entries that hold a feature."""
        return min(self._enqueued, self.length)

    @torch.no_grad()
    def enqueue(self, features: Tensor, ids: Tensor | None, labels: Tensor | None = None) -> None:
        """Store features, overwriting the oldest.

        Args:
            features: ``(M, dim)``, any scale; normalised here.
            ids: Identity of the image behind each feature, ``(M,)``, int64, -1
                where unknown; ``None`` where all are.
            labels: Class of each image, alike, for diagnostics only.
        """
        start = self._enqueued % self.length
        count = len(features)
        features = F.normalize(features.float(), dim=1)
        for buffer, rows in (
            (self.features, features),
            (self.ids, ids),
            (self.labels, labels),
        ):
            if rows is None:
                rows = buffer.new_full((count,), UNKNOWN)
            rows = rows[-self.length :]
            first = (start + count - len(rows)) % self.length
            until_end = min(len(rows), self.length - first)
            buffer[first : first + until_end] = rows[:until_end]
            buffer[: len(rows) - until_end] = rows[until_end:]
        self._enqueued += count
        self.enqueued.fill_(self._enqueued)

    @torch.no_grad()
    def search(self, queries: Tensor, ids: Tensor | None, k: int) -> Neighbors:
        """Find the K most similar entries of other images (Eq. 3).

        Args:
            queries: L2-normalised momentum features, ``(N, dim)``.
            ids: Identity of each query's image, ``(N,)``; entries of the same
                image are passed over, for -1 none. ``None`` passes over nothing.
            k: Number of neighbours.

        Returns:
            The neighbours; ``valid`` is ``False`` where a query had fewer than
            K eligible entries.

        Raises:
            ValueError: If the set holds fewer than ``k`` entries.
        """
        if k > self.fill:
            raise ValueError(f'neighbors={k} exceeds the {self.fill} entries in the candidate set')
        queries = queries.to(self.features.dtype).T.contiguous()
        buffer = queries.new_empty(min(self._CHUNK, self.fill), queries.size(1))
        best = []
        if ids is not None:
            ids = ids.masked_fill(ids == UNKNOWN, UNKNOWN - 1)  # which no entry has
        with exact_float32(queries.device):
            for start in range(0, self.fill, self._CHUNK):
                end = min(start + self._CHUNK, self.fill)
                similarity = buffer[: end - start]
                torch.mm(self.features[start:end], queries, out=similarity)
                if ids is not None:
                    same_image = self.ids[start:end, None] == ids
                    similarity.masked_fill_(same_image, -torch.inf)
                values, index = _top_k(similarity, min(k, end - start))
                best.append((values, index + start))
            similarity, index = (torch.cat(parts, dim=1) for parts in zip(*best))
            similarity, order = similarity.topk(k, dim=1)
        return Neighbors(index.gather(1, order), similarity.float(), similarity > -torch.inf)

    @torch.no_grad()
    def count(self, neighbors: Neighbors) -> Tensor:
        """Count how often each of the filled entries was found: ``(fill,)``, int32."""
        index, _, valid = neighbors
        counts = torch.zeros(self.fill, dtype=torch.int32, device=index.device)
        return counts.scatter_add_(0, index.flatten(), valid.flatten().int())

    def newest(self, count: int) -> Tensor:
        """Features of the entries that came last, oldest first: ``(M, dim)``, at most ``count``."""
        first = self._enqueued - min(count, self.fill)
        rows = torch.arange(first, self._enqueued, device=self.ids.device) % self.length
        return self.features[rows]

    def entries(self) -> dict[str, Tensor]:
        """Everything that the set holds, for sets that ``state_dict`` leaves out."""
        return dict(self.named_buffers())

    def load_entries(self, entries: dict[str, Tensor]) -> None:
        """Restore what :meth:`entries` returned.

        Raises:
            ValueError: If it was a set of another length or dimension.
        """
        self._check_shape(entries['features'])
        for name, buffer in self.named_buffers():
            buffer.copy_(entries[name])
        self._enqueued = int(self.enqueued)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = state_dict.get(f'{prefix}features')
        if stored is not None:
            self._check_shape(stored)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._enqueued = int(self.enqueued)

    def _check_shape(self, stored: Tensor) -> None:
        if stored.shape != self.features.shape:
            raise ValueError(
                f"the checkpoint's candidate set is {tuple(stored.shape)}, the config's "
                f'{tuple(self.features.shape)}; set model.queue.length={stored.shape[0]} and '
                f'model.queue.dim={stored.shape[1]}, or load the backbone alone through '
                "init_cfg=dict(type='Pretrained', prefix='backbone.')"
            )

    def extra_repr(self) -> str:
        """Show the settings in the printed model."""
        dtype = str(self.features.dtype).removeprefix('torch.')
        return f'length={self.length}, dim={self.dim}, dtype={dtype}, sync={self.sync}'


def _top_k(columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column and where they are, ``(N, k)`` each, in no order.

    They lie in the k blocks with the largest maxima, and block maxima are cheap
    where a full top-k is not. What does not fill a block is a block of its own.
    """
    length, width = columns.shape
    count = length // _BLOCK
    if count <= k:
        return columns.T.topk(k, dim=1, sorted=False)
    maxima = columns[: count * _BLOCK].view(count, _BLOCK, width).amax(dim=1)
    blocks = maxima.T.contiguous().topk(k, dim=1, sorted=False).indices
    steps = torch.arange(_BLOCK, device=columns.device)
    rows = (blocks[:, :, None] * _BLOCK + steps).flatten(1)
    rest = torch.arange(count * _BLOCK, length, device=columns.device)
    rows = torch.cat([rows, rest.expand(width, -1)], dim=1)
    values, order = columns.T.gather(1, rows).topk(k, dim=1, sorted=False)
    return values, rows.gather(1, order)
