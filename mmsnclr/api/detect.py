"""Train a detector on a COCO-format set."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..backbones import read_backbone
from ..checkpoints import Stored, at_hand
from ..console import Setting, say, settings_table
from ..datasets.coco import (
    CocoSet,
    category_names,
    describe_crowds,
    mask_crowds,
    match_categories,
    objects_of,
    split_coco,
)
from ..datasets.coco_check import Mistake, check_coco, describe_mistakes
from ..engine import build_runner
from ..engine.launch import count_processes, launch, share_of_batch
from ..engine.optim import set_amp
from ..evaluation.coco import CocoAP, evaluate_coco
from ..parents import only_progress
from ..recipes.detection import (
    check_sizes,
    fit_to_backbone,
    fit_to_files,
    fit_to_iterations,
    fit_to_objects,
    fit_to_run,
    load_detector,
)
from ..recipes.detector_backbones import Backbone, detector_backbone, random_backbone
from ..requirements import check_detection_requirements
from ..visualization import plot_precision_recall
from ..visualization.detection_summary import ap_advice, ap_limit, ap_table, detection_summary
from ..visualization.detections import draw_detections

_VAL_SHARE = 0.2
_PICTURES, _THRESHOLD = 12, 0.3


class Detection(NamedTuple):
    """What :func:`detect` made.

    Attributes:
        checkpoint: The trained detector, for :func:`mmsnclr.api.predict.predict`.
        results: Average precision of each kind (``'bbox'``, ``'segm'``) for each
            run, the first being that from the given backbone.
        summary: A file that tells all of it.
    """

    checkpoint: Path
    results: dict[str, dict[str, CocoAP]]
    summary: Path


def detect(
    train_json: str | Path,
    images: str | Path,
    backbone: str | Path,
    out: str | Path,
    *,
    val_json: str | Path | None = None,
    val_images: str | Path | None = None,
    compare: str | Path | None = None,
    size: int | None = None,
    iterations: int | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    lr: float | None = None,
    flip: bool = True,
    skip_bad: bool = False,
    workers: int = 2,
    amp: str | None = None,
    seed: int = 0,
    gpus: int | None = None,
    resume: bool = False,
) -> Detection:
    """Train Mask R-CNN from a pretrained backbone, and measure it.

    Faster R-CNN where an annotation has no mask. ``out`` receives ``config.py``, which
    ``tools/train.py`` runs again, the annotations, ``training/``, pictures and ``summary.md``.

    Args:
        train_json: Annotations in COCO's format.
        images: Folder that its file names start from.
        backbone: Checkpoint with a ResNet, a ViT or another model of timm that has feature maps;
            foreign ones go through ``import_checkpoint`` first.
            ``'random'``: random weights, of the architecture in ``compare`` or of a ResNet-50.
        out: Folder to write into.
        val_json: Annotations to validate on; by default a fifth of the images is drawn.
        val_images: Folder of its file names; ``images`` by default.
        compare: ``'random'`` or another checkpoint; the same is trained from it.
        size: Longer side of the images in pixels.
        iterations: Number of training steps.
        epochs: The same in passes over the annotated images.
        batch: Images in a step of all processes; by default 4 or the next multiple.
        lr: Learning rate.
        flip: Whether to mirror training images at random.
        skip_bad: Whether to leave wrong images and annotations out.
        workers: Processes that load images, for each that trains.
        amp: ``'auto'`` or ``'fp16'``, float16 on CUDA and float32 on a CPU; default: float32.
        seed: Seed of the split and the training.
        gpus: How many processes train, as for :func:`mmsnclr.api.pretrain.pretrain`.
        resume: Whether to continue what is in ``out`` by the arguments that began it.

    Returns:
        Where the detector is and how good it is.

    Raises:
        FileNotFoundError, ChildProcessError: If a file is not there; if a process was killed.
        ImportError: If mmdet or mmcv's operators are missing.
        ValueError: If annotations or settings are wrong, or ``out`` holds another run.
    """
    out = Path(out).resolve()
    if val_images is not None and val_json is None:
        raise ValueError('val_images is given without val_json, the annotations that go with it')
    check_detection_requirements()
    processes = count_processes(gpus)
    batch = _check_out(out, resume, batch, processes)
    starts = _read_starts(backbone, compare)
    sources = [(train_json, images)] + ([(val_json, val_images or images)] if val_json else [])
    train, val = _read_sets(sources, out, skip_bad, seed)
    cfg, detector, train, val = _choose_detector(train, val)
    set_amp(cfg, amp)
    learned, objects = objects_of(train.content)
    cfgs, settings = {}, [detector]
    for name, start in starts.items():
        cfgs[name] = cfg_of_run = copy.deepcopy(cfg)
        chosen = fit_to_backbone(cfg_of_run, start.backbone)
        chosen += fit_to_objects(cfg_of_run, learned, objects, size, flip)
        schedule = (iterations, epochs, batch, lr, processes)
        chosen += fit_to_iterations(cfg_of_run, len(learned), *schedule)
        check_sizes(cfg_of_run, train, val)
        fit_to_files(cfg_of_run, train, val, workers, seed)
        suffix = f' ({name})' if len(cfgs) > 1 else ''
        settings += [row._replace(name=row.name + suffix) for row in chosen if row not in settings]
    say(settings_table(settings))
    for part in (train, val):
        _write(part.file, json.dumps(part.content), resume)
    trained = _train_all(starts, cfgs, settings, out, resume, processes)
    return _summarise(out, train, val, settings, *trained)


class _Start(NamedTuple):
    """What a run starts from: as the user named it, and the files that it takes weights from."""

    source: str
    backbone: Backbone
    files: tuple[Stored, ...] = ()


def _check_out(out: Path, resume: bool, batch: int | None, processes: int) -> int | None:
    """Refuse a folder that is not to be written into; the batch, that of a run in it if not given.

    The processes must be able to share it.
    """
    config = out / 'config.py'
    if config.exists():
        before = _read_batch(config, resume)
        batch = before if batch is None else batch
    share_of_batch(batch or 0, processes)
    return batch


def _read_batch(config: Path, resume: bool) -> int:
    out = config.parent
    if not resume:
        raise ValueError(
            f'out={str(out)!r} holds a run already: choose another folder, or pass --resume '
            'to continue what was interrupted'
        )
    cfg = Config.fromfile(config)
    if cfg.get('default_scope') != 'mmdet':
        raise ValueError(f'out={str(out)!r} holds no detector: choose another folder')
    return cfg.train_dataloader.batch_size


def _read_starts(backbone: str | Path, compare: str | Path | None) -> dict[str, _Start]:
    """What each run starts from, by the run's name."""
    if backbone == compare == 'random':
        raise ValueError("backbone='random' and compare='random' are the same: leave one out")
    files = dict(pretrained=backbone, compared=compare).items()
    starts = {name: _read_start(file) for name, file in files if file not in (None, 'random')}
    if 'random' in (backbone, compare):
        known = [start.backbone._replace(init_cfg=None) for start in starts.values()]
        random = dict(random=_Start('random weights', *known or [random_backbone()]))
        starts = random | starts if backbone == 'random' else starts | random
    return starts


def _read_start(checkpoint: str | Path) -> _Start:
    stored = Stored.read(Path(checkpoint).resolve())
    trained = read_backbone(stored)
    backbone = detector_backbone(trained, checkpoint)
    # The rest, such as the optimiser's state, would fill the memory throughout the training.
    weights = {k: value for k, value in stored.weights.items() if k.startswith('backbone.')}
    return _Start(str(checkpoint), backbone, (Stored(stored.path, dict(state_dict=weights)),))


def _read_sets(
    sources: list[tuple[str | Path, str | Path]], out: Path, skip_bad: bool, seed: int
) -> tuple[CocoSet, CocoSet]:
    """The training and the validation set, checked; the latter drawn if it is not given."""
    folders = [Path(folder).resolve() for _, folder in sources]
    for name, folder in zip(('images', 'val_images'), folders):
        if not folder.is_dir():
            raise FileNotFoundError(f'{name}={str(folder)!r} is not a folder')
    checked = [check_coco(file, folder) for (file, _), folder in zip(sources, folders)]
    mistakes = [mistake for _, found in checked for mistake in found]
    if mistakes:
        text = describe_mistakes(mistakes, out / 'mistakes.csv')
        if any(mistake.fatal for mistake in mistakes) and not skip_bad:
            raise ValueError(f'{text}\nMend them, or leave these annotations out by --skip-bad')
        say(text)
    for (file, _), (content, found) in zip(sources, checked):
        _check_objects(content, found, file)
    contents = [content for content, _ in checked]
    if len(sources) == 1:
        contents = split_coco(contents[0], _VAL_SHARE, seed)
        count = len(contents[1]['images'])
        say(f'No --val: {count} of the images were drawn to validate on (seed {seed})')
    else:
        contents[1] = match_categories(*contents, *(file for file, _ in sources))
    train, val = contents
    return (
        CocoSet(train, out / 'train.json', folders[0]),
        CocoSet(val, out / 'val.json', folders[-1]),
    )


def _check_objects(content: dict, mistakes: list[Mistake], file: str | Path) -> None:
    """Refuse a set without objects, and say why it has none; tell of its crowds."""
    annotations = content['annotations']
    if not annotations:
        left_out = any(mistake.annotation is not None for mistake in mistakes)
        why = 'none of its annotations can be used' if left_out else 'it has no annotations'
    elif not objects_of(content)[1]:
        why = f'all of its {len(annotations)} annotations are crowds (iscrowd or ignore is 1)'
    else:
        crowds = describe_crowds(content, Path(file).name)
        return say(crowds) if crowds else None
    raise ValueError(f'{file}: {why}; what is learned and measured are single objects')


def _choose_detector(train: CocoSet, val: CocoSet) -> tuple[Config, Setting, CocoSet, CocoSet]:
    """The recipe of the detector that learns what there is, and the sets as it takes them."""
    objects = [ann for part in (train, val) for ann in objects_of(part.content)[1]]
    without = sum('segmentation' not in ann for ann in objects)
    if without:
        reason = f'{without} of {len(objects)} annotations have no mask'
        return load_detector(False), Setting('detector', 'Faster R-CNN', reason), train, val
    detector = Setting('detector', 'Mask R-CNN', f'all {len(objects)} annotations have masks')
    train, val = (part._replace(content=mask_crowds(part.content)) for part in (train, val))
    return load_detector(True), detector, train, val


def _train_all(
    starts: dict[str, _Start],
    cfgs: dict[str, Config],
    settings: list[Setting],
    out: Path,
    resume: bool,
    processes: int,
) -> tuple[dict[str, dict[str, CocoAP]], dict[str, tuple[str, Path]]]:
    """Train from each start; how good each detector is, what it started from and where it is."""
    results, detectors = {}, {}
    for name, start in starts.items():
        folder = out / name if results else out  # the first is what was asked for
        config = _write_config(folder, name, cfgs[name], settings, resume)
        checkpoint, results[name] = _train(config, start, processes)
        detectors[name] = (start.source, checkpoint)
    return results, detectors


def _summarise(
    out: Path,
    train: CocoSet,
    val: CocoSet,
    settings: list[Setting],
    results: dict[str, dict[str, CocoAP]],
    detectors: dict[str, tuple[str, Path]],
) -> Detection:
    """Write plot, pictures and summary, and tell of them."""
    plot_precision_recall(results, out / 'precision_recall.png')
    (_, checkpoint), kinds = (next(iter(part.values())) for part in (detectors, results))
    found = _predictions(out / 'training', 'segm' if 'segm' in kinds else 'bbox')
    pictures, threshold = _draw(val, found, out / 'pictures')
    summary, sets = out / 'summary.md', (train.content, val.content)
    summary.write_text(
        detection_summary(results, settings, detectors, sets, pictures, threshold, out),
        encoding='utf-8',
    )
    advice = ap_limit(val.content) + ap_advice(results)
    say(f'\n{ap_table(results)}{advice}\nAll of it: {summary}')
    return Detection(checkpoint, results, summary)


def _write_config(
    folder: Path,
    name: str,
    cfg: Config,
    settings: list[Setting],
    resume: bool,
) -> Path:
    """Write the config of a run, which says why it is as it is."""
    config = folder / 'config.py'
    fit_to_run(cfg, folder / 'training')
    why = '\n'.join(f'{row.name}: {row.value} ({row.reason})' for row in settings)
    text = f'''"""{settings[0].value} from the {name} backbone; to train it again: \
python tools/train.py THIS_FILE --work-dir ELSEWHERE

{why}
"""

{cfg.pretty_text}'''
    # mmengine takes braces for variables of its own, also in names of classes and files.
    text = text.replace('{{', r'{\x7b')
    _write(config, text, resume, _settings_of)
    say(f'Training from the {name} backbone by {config}; logs are in {cfg.work_dir}')
    return config


def _write(path: Path, text: str, resume: bool, read: Callable[[str], object] = str) -> None:
    """Write a file; on resuming, only compare what it says with what the run began with."""
    if resume and path.exists():
        if read(path.read_text(encoding='utf-8')) != read(text):
            raise ValueError(
                f'{path} was written with other annotations or settings: pass with --resume what '
                'the run was started with, or choose another --out'
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def _settings_of(text: str) -> dict:
    """What a config says; the first versions did not say that processes share a batch."""
    return Config.fromstring(text, '.py').to_dict() | dict(share_batch=True)


def _train(config: Path, start: _Start, processes: int) -> tuple[Path, dict[str, CocoAP]]:
    """Train to the end and validate, or what is left to do of it; the detector and its quality."""
    cfg = Config.fromfile(config)
    # A process may have a single image; mmengine does this on GPUs alone.
    cfg.share_batch, cfg.sync_bn, work_dir = True, 'torch', Path(cfg.work_dir)
    # The metric writes predictions down, and evaluate_coco rates them: it tells the classes' APs
    # and curves, too.
    cfg.val_evaluator.update(format_only=True, outfile_prefix=str(work_dir / 'predictions'))
    files = {kind: _predictions(work_dir, kind) for kind in cfg.val_evaluator.metric}
    cfg.default_hooks.preemption = dict(type='PreemptionHook', interrupt=True)
    cfg.launcher = 'pytorch' if processes > 1 else 'none'
    with at_hand(*start.files):
        launch(processes, _run, cfg, list(files.values()))
    truth = cfg.val_evaluator.ann_file
    results = {kind: evaluate_coco(truth, file, kind) for kind, file in files.items()}
    return work_dir / f'iter_{cfg.train_cfg.max_iters}.pth', results


def _run(cfg: Config, predictions: list[Path]) -> None:
    with only_progress():
        runner = build_runner(cfg)
        runner.train()
        # The validation may have been interrupted.
        if not all(file.exists() for file in predictions):
            runner.val()


def _predictions(work_dir: Path, kind: str) -> Path:
    return work_dir / f'predictions.{kind}.json'


def _draw(val: CocoSet, found: Path, folder: Path) -> tuple[list[Path], float]:
    """Pictures of some validation images, predictions beside the truth, and the lowest score."""
    predictions = json.loads(found.read_text(encoding='utf-8'))
    images, annotations = val.content['images'], val.content['annotations']
    # A weak detector's few best are shown too.
    scores = sorted((p['score'] for p in predictions), reverse=True)
    threshold = min([_THRESHOLD, *scores[: 3 * len(images)]])
    step = max(1, len(images) // _PICTURES)
    pictures = [
        draw_detections(
            val.images / image['file_name'],
            [p for p in predictions if p['image_id'] == image['id']],
            category_names(val.content),
            folder / f'{number:02d}_{Path(image["file_name"]).stem}.jpg',
            [a for a in annotations if a['image_id'] == image['id']],
            threshold,
        )
        for number, image in enumerate(images[::step][:_PICTURES])
    ]
    return pictures, threshold
