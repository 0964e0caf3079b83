"""One HTML page about a pretraining run."""

import base64
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mmcv
import mmpretrain
from mmengine.config import Config
from mmengine.utils.dl_utils import collect_env

from ..console import check_least
from ..datasets.listing import list_images, read_labels
from ..engine.run import latest_checkpoint, read_encoder, read_log, relocated, training_images
from ..evaluation.representation import represent_images
from ..models import NeighborMethod
from ..version import __version__
from ..visualization import draw_projection, find_neighbors, project, write_report


def report(
    run: str | Path,
    images: Sequence[str | Path] | None = None,
    labels: str | Path | None = None,
    queries: int = 12,
    shown: int = 8,
    projection: str = 'pca',
    max_images: int = 500,
    seed: int = 0,
    image_root: str | Path | None = None,
    workers: int | None = None,
) -> Path:
    """Write one page about a run: curves, health, gallery, projection, settings.

    Args:
        run: Work directory of a pretraining, finished or not.
        images: Folders, tars, text files with paths, COCO json files or image files
            for gallery and projection; those of the training by default.
        labels: ``'folders'``, where folder names are classes, ``'cls'``, where tars have
            ``.cls`` files, or a csv file with the columns ``path`` and ``label``.
        queries: Number of images in the gallery.
        shown: Number of neighbours of each.
        projection: ``'pca'`` or ``'tsne'``.
        max_images: If there are more images, so many are drawn at random.
        seed: Seed of the choices.
        image_root: Folder from which paths in text, json and csv files are meant;
            by default the folder of the file.
        workers: Processes that load images; by default one for each core, up to 8.

    Returns:
        ``run/report.html``.

    Raises:
        FileNotFoundError: If the run has no log or no checkpoint, or images
            are missing.
        ValueError: If images or labels cannot be used.
    """
    check_least(dict(queries=queries, shown=shown), queries=1, shown=1)
    lines = read_log(run)
    checkpoint = latest_checkpoint(run)
    encoder = read_encoder(checkpoint)
    if encoder.method is None:
        raise ValueError(f'{checkpoint} holds no method with neighbours: a report is about one')
    cfg = relocated(encoder.config, run)
    if images:
        paths, names = list_images(images, image_root), None
    else:
        paths, names = training_images(cfg)
    if labels is not None:
        names = read_labels(labels, paths, image_root)
    parts = ['features', 'keys', *['projections'] * encoder.method.weighs]
    found = represent_images(encoder, paths, names, max_images, seed, parts, workers)
    gallery = find_neighbors(encoder.method, found, queries, shown, seed)
    positions = project(found.parts['features'].numpy(), projection, seed)
    about = f'Features of {len(found.paths)} images by {projection.upper()}'
    with TemporaryDirectory() as folder:
        picture = draw_projection(positions, found.labels, Path(folder, 'projection.png'), '')
        data = base64.b64encode(picture.read_bytes()).decode()
    return write_report(
        Path(run) / 'report.html',
        cfg,
        lines,
        _settings(cfg, encoder.method, checkpoint),
        _environment(),
        gallery,
        dict(picture=f'data:image/png;base64,{data}', about=about),
    )


def _settings(cfg: Config, model: NeighborMethod, checkpoint: Path) -> dict[str, object]:
    """What matters most of a config."""
    optimizer = cfg.optim_wrapper.optimizer
    hooks = [hook for hook in cfg.get('custom_hooks') or () if hook.type == 'NeighborQueueHook']
    backbone, train = cfg.model.backbone, cfg.train_cfg
    chosen = cfg.get('settings', {})  # by `mmsnclr pretrain`
    return {
        'method': cfg.model.type,
        'backbone': backbone.get('model_name')
        or ' '.join(str(backbone[key]) for key in ('type', 'depth', 'arch') if key in backbone),
        'images': _root(cfg.train_dataloader.dataset),
        **{name: chosen[name] for name in ('views',) if name in chosen},
        'batch': f'{cfg.train_dataloader.batch_size} images'
        + ('' if cfg.get('share_batch') else ' per process'),
        'length': ', '.join(
            f'{train[key]} {key.removeprefix("max_")}'
            for key in ('max_epochs', 'max_iters')
            if key in train
        ),
        'optimiser': f'{optimizer.type}, learning rate {optimizer.lr:g}, '
        f'weight decay {optimizer.get("weight_decay", 0):g}',
        'neighbours (K)': model.neighbors or 'all of the set',
        'temperature': getattr(model.head, 'temperature', None),
        'set': f'{cfg.model.queue.length:,} entries of width {cfg.model.queue.dim}',
        'momentum coefficient': model.momentum_coefficient,
        'epochs without neighbours (m)': hooks[0].get('warmup_epochs', 0) if hooks else 'no hook',
        'seed': cfg.get('randomness', {}).get('seed'),
        'checkpoint': checkpoint.name,
    }


def _root(dataset: Config) -> str:
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset.get('data_root') or dataset.get('ann_file') or dataset.type


def _environment() -> dict[str, object]:
    """The machine and the libraries that wrote the page."""
    ours = dict(mmcv=mmcv.__version__, mmpretrain=mmpretrain.__version__, mmsnclr=__version__)
    hidden = ('PyTorch compiling details', 'numpy_random_seed')  # long; not the run's
    return {k: v for k, v in (collect_env() | ours).items() if k not in hidden}
