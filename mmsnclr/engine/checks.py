"""What several machines must have in common before they train together."""

import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..datasets.transforms import transforms_of
from ..datasets.views import AugmentedViews

_SHARED_MEMORY = Path('/dev/shm')
_PATIENCE = 5.0  # seconds for a file system to show what another machine wrote


class _Found(NamedTuple):
    """What a rank finds on its machine."""

    host: str
    sees_folder: bool
    images: int
    free: float  # bytes of shared memory
    batch: int  # bytes of one, where they are known


def check_start(runner: Runner) -> None:
    """See to it that all machines can train before one of them begins.

    Every rank finds the same: they end together.

    Raises:
        FileNotFoundError: If machines do not share the work directory.
        ValueError: If machines have another number of images than rank 0's.
        OSError: If shared memory cannot hold one batch of each process that loads images.
    """
    loader = runner.train_dataloader
    with _file_for_all(runner.work_dir) as path:
        free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else float('inf')
        images, batch = len(loader.dataset), _batch_bytes(loader)
        ranks = all_gather_object(_Found(socket.gethostname(), _appears(path), images, free, batch))
    _refuse_unlike(runner, ranks)
    _check_shared_memory(runner, loader, ranks)


def _hosts(ranks: Iterable[_Found]) -> str:
    return ', '.join(dict.fromkeys(rank.host for rank in ranks))


def _refuse_unlike(runner: Runner, ranks: list[_Found]) -> None:
    blind = [rank for rank in ranks if not rank.sees_folder]
    if blind:
        raise FileNotFoundError(
            f'{_hosts(blind)} cannot see what {ranks[0].host} writes to {runner.work_dir}: set '
            'work_dir (--work-dir) to a folder on a file system that all machines share'
        )
    unlike = [rank for rank in ranks if rank.images != ranks[0].images]
    if unlike:
        raise ValueError(
            f'the training set has {ranks[0].images} images on {ranks[0].host}, but '
            f'{unlike[0].images} on {_hosts(unlike)}: give all machines the same files'
        )


@contextmanager
def _file_for_all(folder: str) -> Iterator[Path | None]:
    """A file that rank 0 has written for the others.

    ``None`` where there are none, or where it could not, which is for the checkpoints to say.
    """
    name: list[str | None] = [None]
    if is_main_process() and get_world_size() > 1:
        with suppress(OSError):
            path = Path(folder, f'.seen_by_all_{uuid4().hex}')
            path.touch()
            name = [str(path)]
    broadcast_object_list(name)
    try:
        yield Path(name[0]) if name[0] else None
    finally:
        if is_main_process() and name[0]:
            Path(name[0]).unlink(missing_ok=True)


def _appears(path: Path | None) -> bool:
    end = time.monotonic() + _PATIENCE
    while path is not None and not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _check_shared_memory(runner: Runner, loader: DataLoader, ranks: list[_Found]) -> None:
    """Refuse what cannot hold a batch of each worker, warn of less than all that they prefetch."""
    if not loader.num_workers or loader.prefetch_factor is None:
        return
    local = Counter(rank.host for rank in ranks)
    least = min(ranks, key=lambda rank: rank.free / local[rank.host])
    first = local[least.host] * loader.num_workers * least.batch
    all_ = first * loader.prefetch_factor
    if all_ <= least.free:
        return
    message = (
        f'{_SHARED_MEMORY} of {least.host} has {least.free / 2**20:,.0f} MiB free, and loading '
        f'takes up to {all_ / 2**20:,.0f} MiB: {local[least.host]} ranks with {loader.num_workers} '
        f'workers each, and for each of these {loader.prefetch_factor} batches of '
        f'{least.batch / 2**20:,.1f} MiB. Give a container more, as by docker run --shm-size=8g, '
        'or lower train_dataloader.num_workers or train_dataloader.batch_size'
    )
    if first > least.free:
        raise OSError(message)
    runner.logger.warning(message)


def _batch_bytes(loader: DataLoader) -> int:
    """Bytes of a batch of views, uint8; 0 of anything else, whose size only loading it tells."""
    views = (t.views for t in transforms_of(loader.dataset) if isinstance(t, AugmentedViews))
    return (loader.batch_size or 0) * sum(3 * view.size**2 for view in next(views, ()))
