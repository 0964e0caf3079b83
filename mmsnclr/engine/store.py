"""Where hooks of several ranks talk beside the training, which is not to wait for them."""

import os
import socket
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list

LONGEST_CALL = 10.0  # seconds of a call, where the store's process is alive
_NCCLS_TIMEOUT = 600.0  # seconds; gloo's own is longer


def group_timeout(cfg: Config) -> float:
    """Seconds after which a collective that a rank has not joined ends the run."""
    environment = cfg.get('env_cfg') or {}
    return (environment.get('dist_cfg') or {}).get('timeout') or _NCCLS_TIMEOUT


def patience(cfg: Config) -> float:
    """Seconds for which hooks wait for other ranks: fewer, so that they can still act."""
    return group_timeout(cfg) * 2 / 3


def connect(clients: int) -> list[dist.PrefixStore]:
    """Connect to the store by which the ranks found each other, under names that nobody else uses.

    It answers wherever the process group could be made. Every rank has to call this.

    Args:
        clients: How many; a thread that waits holds its own, so each needs one.

    Raises:
        ConnectionError: If a rank cannot, on all of them.
    """
    name, found, failure = [uuid4().hex], [], None
    broadcast_object_list(name)
    try:
        address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        for _ in range(clients):
            limit = timedelta(seconds=LONGEST_CALL)
            client = dist.TCPStore(*address, wait_for_workers=False, timeout=limit)
            found.append(dist.PrefixStore(name[0], client))
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        failure = f'{socket.gethostname()}: {type(error).__name__}: {error}'
    failures = [failure for failure in all_gather_object(failure) if failure is not None]
    if failures:
        raise ConnectionError(
            f'{len(failures)} ranks cannot reach the store, such as {failures[0]}'
        )
    return found
