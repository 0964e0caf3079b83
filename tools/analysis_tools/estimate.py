"""Estimate what pretraining costs on N GPUs: memory, bytes between ranks, schedule; or measure it.

python tools/analysis_tools/estimate.py configs/snclr_r50_800e.py --gpus 32
"""

import argparse
import math
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsnclr.cli.options import ConfigOptions
from mmsnclr.engine.cost import PeakMemory, build_training, ring_bytes, synthetic_peers
from mmsnclr.engine.launch import share_of_batch
from mmsnclr.engine.param_groups import build_optim_wrapper
from mmsnclr.models import NeighborMethod, NeighborQueue, method_of
from mmsnclr.models.dist import gather_rows

IMAGENET_IMAGES = 1_281_167


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings of the config to override, such as model.head.neighbors=10',
    )
    parser.add_argument('--gpus', type=int, default=1, help='number of ranks')
    parser.add_argument(
        '--images', type=int, help='size of the data set, where it is not on this machine'
    )
    parser.add_argument('--image-size', type=int, default=224, help='edge of a view, in pixels')
    parser.add_argument(
        '--measure',
        type=int,
        metavar='STEPS',
        help='train for some steps on this device, the other ranks being synthetic',
    )
    args = parser.parse_args()
    if args.gpus < 1:
        parser.error(f'--gpus={args.gpus} must be at least 1')
    return args


def build(cfg: Config) -> tuple[NeighborMethod, OptimWrapper]:
    """Model with a full candidate set, and its optimiser, whose precision changes no size.

    Args:
        cfg: A pretraining config.

    Returns:
        Both, on the CPU.

    Raises:
        ValueError: If the config is not one of a pretraining.
    """
    if method_of(cfg) is None:
        raise ValueError(f'{cfg.filename} has no candidate set (model.queue): not a pretraining')
    model = MODELS.build(cfg.model).train()
    fill(model.queue)
    wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k in ('optimizer', 'paramwise_cfg')}
    return model, build_optim_wrapper(model, wrapper)


def fill(queue: NeighborQueue) -> None:
    """Fill a candidate set."""
    ids = torch.arange(queue.length, device=queue.features.device)
    queue.enqueue(torch.ones(queue.length, queue.dim, device=ids.device), ids)


def batch(
    model: NeighborMethod, size: int, edge: int
) -> tuple[list[torch.Tensor], list[DataSample]]:
    """Random images on the model's device.

    Args:
        model: Where it lies.
        size: Number of images.
        edge: Of a view, in pixels.

    Returns:
        Two views and their data samples.
    """
    device = next(model.parameters()).device
    views = [torch.randn(size, 3, edge, edge, device=device) for _ in range(2)]
    return views, samples(size)


def samples(size: int) -> list[DataSample]:
    """Data samples of some images."""
    return [DataSample(metainfo=dict(img_path=f'{i}.jpg')) for i in range(size)]


def estimate_traffic(model: NeighborMethod, size: int, edge: int, ranks: int) -> dict[str, int]:
    """Bytes that a rank receives in one step, by the collective that brings them.

    Args:
        model: A method with a full candidate set; nothing of it changes.
        size: Images per rank.
        edge: Of a view, in pixels.
        ranks: Number of ranks.

    Returns:
        Bytes, by collective; an ``all_reduce`` is taken as a ring.
    """
    online = [p for p in model.parameters() if p.requires_grad]

    def received() -> Counter:
        with FakeTensorMode(allow_non_fake_inputs=True), synthetic_peers(ranks) as count:
            torch.autograd.grad(model.loss(*batch(model, size, edge))['loss'], online)
        model.forget_step()
        return count

    with without_sync_bn(model):
        ours = received()
    return {
        'all_gather (keys, image ids)': ours['all_gather'],
        'all_reduce (search and loss)': ours['all_reduce'],
        'all_gather and all_reduce (SyncBN)': received().total() - ours.total(),
        "all_reduce (gradients, DDP's)": ring_bytes(sum(p.nbytes for p in online), ranks),
    }


@contextmanager
def without_sync_bn(model: NeighborMethod) -> Iterator[None]:
    """Let SyncBN layers of a model that trains exchange nothing for a while."""
    norms = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def estimate_memory(model: NeighborMethod, wrapper: OptimWrapper, size: int, ranks: int) -> dict:
    """Bytes that one rank holds, by what they are for.

    Args:
        model: A method with a full candidate set; nothing of it changes.
        wrapper: Its optimiser; loses its state and gradients.
        size: Images per rank.
        ranks: Number of ranks.

    Returns:
        Bytes. The loss's are what its tensors occupy at most, forward and
        backward, beside all else.
    """
    online = [p for p in model.parameters() if p.requires_grad]
    return {
        'parameters and gradients': 2 * sum(p.nbytes for p in online),
        'optimiser state': _optimizer_bytes(wrapper),
        'momentum encoder': sum(p.nbytes for p in model.momentum_encoder.parameters()),
        'candidate set': sum(b.nbytes for b in model.queue.buffers()),
        'search and loss, at their peak': _loss_bytes(model, size, ranks),
    }


def _optimizer_bytes(wrapper: OptimWrapper) -> int:
    """Size of the state that a step leaves behind, learnt by a step of length 0."""
    groups = wrapper.optimizer.param_groups
    for group in groups:
        group['lr'] = 0.0
        for parameter in group['params']:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    wrapper.optimizer.step()
    states = wrapper.optimizer.state.values()
    wrapper.optimizer.zero_grad()
    return sum(v.nbytes for state in states for v in state.values() if torch.is_tensor(v))


def _loss_bytes(model: NeighborMethod, size: int, ranks: int) -> int:
    """Peak of search, loss and gradient of one view order, keys of all ranks included."""
    dim = model.queue.dim
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    with without_sync_bn(model), fake_mode as fake, synthetic_peers(ranks):
        held = [fake.from_tensor(t) for t in (*model.parameters(), *model.buffers())]
        with PeakMemory(held) as memory:
            projection = torch.randn(size, dim, requires_grad=True)
            keys, ids = torch.randn(size, dim), torch.arange(size)
            loss, _ = model.compare(projection, keys, gather_rows(keys), ids)
            torch.autograd.grad(loss, projection)
    return memory.peak


def schedule(cfg: Config, model: NeighborMethod, images: int, ranks: int) -> dict[str, str]:
    """Steps, images, batch, learning rate and warm-up that result.

    Args:
        cfg: A pretraining config.
        model: The model that it builds.
        images: Size of the data set.
        ranks: Number of ranks.

    Returns:
        What to print, by name.
    """
    loader = cfg.train_dataloader
    size, epochs = loader.batch_size, cfg.train_cfg.max_epochs
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    per_rank = math.ceil(images / ranks)
    batches = per_rank // size if loader.get('drop_last') else math.ceil(per_rank / size)
    steps = math.ceil(batches / accumulated)
    lr = cfg.optim_wrapper.optimizer.lr
    batch = size * ranks
    intended = cfg.get('auto_scale_lr', {}).get('base_batch_size')
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    warmup = max((s.get('end', 0) for s in schedulers if s.type == 'LinearLR'), default=0)
    length = model.queue.length
    spanned = length / (batch if model.queue.sync else size)
    compared = (
        f'its key and the candidate set of {length:,}'
        if model.neighbors is None
        else f'{batch * (1 + model.neighbors):,} keys and neighbours'
    )
    rows = {
        'images per epoch': f'{images:,}',
        'batch': f'{batch:,} ({ranks} ranks x {size})'
        + (f', {accumulated} accumulated for a step' if accumulated > 1 else ''),
        'compared with each prediction': compared,
        'steps': f'{steps:,} an epoch, {steps * epochs:,} in {epochs} epochs',
        'candidate set spans': f'{spanned:,.0f} batches, {spanned / batches:.2f} epochs',
        'learning rate': f'{lr:g}, after {warmup} epochs of warm-up ({warmup * steps:,} steps)',
    }
    if intended is not None:
        rows['with --auto-scale-lr'] = (
            f'{lr * batch / intended:g} (the config means a batch of {intended:,})'
        )
    return rows


def count_images(cfg: Config, given: int | None) -> int:
    """Size of the training set: as given, as found on disk, or ImageNet's.

    Args:
        cfg: A pretraining config.
        given: The size if it is known.

    Returns:
        Number of images.

    Raises:
        ValueError: If it is not given and the data set is not there.
    """
    if given is not None:
        return given
    dataset = cfg.train_dataloader.dataset
    try:
        return len(DATASETS.build(dataset))
    except (FileNotFoundError, RuntimeError) as error:
        if dataset.type == 'ImageNet':
            return IMAGENET_IMAGES
        raise ValueError(
            f'the data set cannot be read ({error}): give its size by --images'
        ) from None


def measure(cfg: Config, args: argparse.Namespace) -> dict[str, str]:
    """Train for some steps on the device at hand and load some batches.

    Args:
        cfg: A pretraining config.
        args: The command line.

    Returns:
        What to print, by name.
    """
    size = cfg.train_dataloader.batch_size
    cuda = torch.cuda.is_available()
    model, wrapper = build_training(cfg)
    fill(model.queue)
    shape = (size, 3, args.image_size, args.image_size)
    views = [torch.randint(256, shape, dtype=torch.uint8, pin_memory=cuda) for _ in range(2)]
    data = dict(inputs=views, data_samples=samples(size))
    with synthetic_peers(args.gpus):
        for step in range(args.measure + 1):
            if step == 1:
                _wait(cuda)
                start = time.perf_counter()
            model.train_step(data, wrapper)
            model.after_optimizer_step(0.0)
        _wait(cuda)
    speed = args.measure * size / (time.perf_counter() - start)
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    rows = {
        'device': torch.cuda.get_device_name()
        if cuda
        else f'CPU, {torch.get_num_threads()} threads',
        'optimiser': f'{type(wrapper).__name__} of {type(wrapper.optimizer).__name__}',
        'peak memory': _bytes(peak),
        'model': f'{speed:,.1f} images/s on a rank',
    }
    here = min(args.gpus, torch.cuda.device_count() or 1)
    loading = _loader_speed(cfg, args.measure, here)
    if loading is not None:
        rows['loader'] = f'{loading:,.1f} images/s on a rank, {here} of which load here at once'
        rows['what limits'] = 'the model' if speed < loading else 'the loader: add num_workers'
    total = count_images(cfg, args.images) * cfg.train_cfg.max_epochs / args.gpus
    rows['the whole run'] = (
        f'{total / min(speed, loading or speed) / 3600:,.1f} hours on {args.gpus} such ranks'
    )
    rows['left out'] = 'waiting for other ranks and for what they send, hooks, checkpoints'
    return rows


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _loader_speed(cfg: Config, batches: int, ranks: int) -> float | None:
    """Images per second that a rank loads once all workers run; None without the data.

    ``ranks`` is how many load on this machine at once.
    """
    try:
        loaders = [Runner.build_dataloader(cfg.train_dataloader, seed=0) for _ in range(ranks)]
    except (FileNotFoundError, RuntimeError):
        return None
    workers, ahead = loaders[0].num_workers, loaders[0].prefetch_factor or 1
    # A batch of each in turn; the first ones were loaded before.
    loaded = zip(*[iter(loader) for loader in loaders])
    for _ in islice(loaded, max(1, workers * ahead)):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in islice(loaded, batches * max(1, workers)))
    return count * loaders[0].batch_size / (time.perf_counter() - start) if count else None


def _bytes(count: float) -> str:
    return f'{count / 1e6:,.1f} MB'


def _print(title: str, rows: dict[str, str]) -> None:
    print(f'\n{title}')
    for name, value in rows.items():
        print(f'  {name:46s} {value}')


def main() -> None:
    """Print estimate and, if asked to, measurement."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    if cfg.get('share_batch'):
        try:
            batch = share_of_batch(cfg.train_dataloader.batch_size, args.gpus)
        except ValueError as error:
            raise SystemExit(f'estimate.py: {error}') from None
        cfg.train_dataloader.batch_size = batch
    MMLogger.get_instance('estimate', log_level='ERROR')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    size = cfg.train_dataloader.batch_size
    model, wrapper = build(cfg)
    _print('Schedule', schedule(cfg, model, count_images(cfg, args.images), args.gpus))
    memory = estimate_memory(model, wrapper, size, args.gpus)
    _print(
        'Memory of a rank, activations of the encoders left out',
        {name: _bytes(count) for name, count in (memory | {'sum': sum(memory.values())}).items()},
    )
    traffic = estimate_traffic(model, size, args.image_size, args.gpus)
    _print(
        'Received by a rank in a step',
        {name: _bytes(count) for name, count in (traffic | {'sum': sum(traffic.values())}).items()},
    )
    if args.measure:
        _print(f'Measured over {args.measure} steps', measure(cfg, args))


if __name__ == '__main__':
    main()
