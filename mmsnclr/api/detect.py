"""Train a detector on images with boxes or masks."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..backbones import check_starts
from ..checkpoints import at_hand, sole_writer
from ..console import Setting, say, settings_table
from ..datasets.coco import CocoSet, category_names, levels_of, mask_crowds, objects_of
from ..datasets.detection_sets import read_sets
from ..datasets.leakage import tell_of_leakage
from ..engine import build_runner
from ..engine.launch import count_processes, launch, share_of_batch
from ..engine.optim import set_amp
from ..evaluation.coco import CocoAP, evaluate_coco
from ..parents import only_progress
from ..recipes.detection import (
    check_settings,
    fit_to_backbone,
    fit_to_files,
    fit_to_iterations,
    fit_to_objects,
    fit_to_run,
    leave_out_narrow,
    load_detector,
)
from ..recipes.detector_backbones import Start, read_starts
from ..recipes.differences import differences
from ..requirements import check_detection_requirements
from ..visualization import plot_precision_recall
from ..visualization.detection_summary import ap_advice, ap_limit, ap_table, detection_summary
from ..visualization.detections import draw_detections

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


@sole_writer
def detect(
    train_json: str | Path,
    images: str | Path | None,
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
        train_json: Annotations in COCO's format; or data.yaml or the folder of a YOLO set; or
            Pascal VOC's folder of xml files.
        images: Folder that file names in it start from; YOLO and VOC sets tell it themselves.
        backbone: Checkpoint of a ResNet, a ViT or another model of timm that has feature maps, or
            ``'random'``: random weights, of the architecture in ``compare`` or of a ResNet-50.
        out: Folder to write into.
        val_json: The same to validate on; by default the set's own part for it, else a fifth.
        val_images: Folder of its file names; ``images`` by default, if it is a json file.
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
    check_settings(
        size=size, iterations=iterations, epochs=epochs, batch=batch, lr=lr, workers=workers
    )
    _check_files(val_json, val_images, backbone, compare)
    check_detection_requirements()
    processes = count_processes(gpus)
    batch = _check_out(out, resume, batch, processes)
    starts = read_starts(backbone, compare, out / 'init')
    train, val = read_sets(train_json, images, val_json, val_images, out, skip_bad, seed)
    cfg, detector, train, val = _choose_detector(train, val)
    set_amp(cfg, amp)
    schedule = dict(iterations=iterations, epochs=epochs, batch=batch, lr=lr, processes=processes)
    cfgs, settings, train, val = _fit_runs(starts, cfg, train, val, size, flip, skip_bad, schedule)
    for cfg in cfgs.values():
        fit_to_files(cfg, train, val, workers, seed)
    say(settings_table(settings := [detector, *settings]))
    for part in (train, val):
        _write(part.file, json.dumps(part.content), resume, _annotations_of)
    leakage = tell_of_leakage(out, train.paths, val.paths, [backbone, compare or 'random'])
    trained = _train_all(starts, cfgs, settings, out, resume, processes)
    return _summarise(out, train, val, settings, leakage, *trained)


def _check_files(
    val_json: str | Path | None,
    val_images: str | Path | None,
    backbone: str | Path,
    compare: str | Path | None,
) -> None:
    """Refuse images without annotations, and starts that are not there."""
    if val_images is not None and val_json is None:
        raise ValueError('val_images is given without val_json, the annotations that go with it')
    check_starts(backbone=[backbone], compare=[] if compare is None else [compare])


def _check_out(out: Path, resume: bool, batch: int | None, processes: int) -> int | None:
    """Refuse a folder that is not to be written into; the batch, that of a run in it if not given.

    The processes must be able to share it.
    """
    config = out / 'config.py'
    # What ended before there was a checkpoint is begun again.
    if config.exists() and (resume or any(out.rglob('training/*.pth'))):
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


def _fit_runs(
    starts: dict[str, Start],
    recipe: Config,
    train: CocoSet,
    val: CocoSet,
    size: int | None,
    flip: bool,
    skip_bad: bool,
    schedule: dict,
) -> tuple[dict[str, Config], list[Setting], CocoSet, CocoSet]:
    """Fit a recipe to the backbone of each run; what was chosen, and the sets that it trains on."""
    everything, cfgs, settings = objects_of(train.content), {}, []
    for name, start in starts.items():
        cfgs[name] = cfg = copy.deepcopy(recipe)
        chosen = fit_to_backbone(cfg, start.backbone)
        chosen += fit_to_objects(cfg, *everything, size, flip)
        train, val = leave_out_narrow(cfg, train, val, skip_bad)
        chosen += fit_to_iterations(cfg, len(objects_of(train.content)[0]), **schedule)
        suffix = f' ({name})' if len(cfgs) > 1 else ''
        settings += [row._replace(name=row.name + suffix) for row in chosen if row not in settings]
    return cfgs, settings, train, val


def _train_all(
    starts: dict[str, Start],
    cfgs: dict[str, Config],
    settings: list[Setting],
    out: Path,
    resume: bool,
    processes: int,
) -> tuple[dict[str, dict[str, CocoAP]], dict[str, tuple[str, Path]]]:
    """Train from each start; how good each detector is, what it started from and where it is."""
    results: dict[str, dict[str, CocoAP]] = {}
    detectors: dict[str, tuple[str, Path]] = {}
    for name, start in starts.items():
        folder = out / name if results else out  # the first is what was asked for
        start.write()
        config = _write_config(folder, name, cfgs[name], settings, resume)
        checkpoint, results[name] = _train(config, start, processes)
        detectors[name] = (start.source, checkpoint)
    return results, detectors


def _summarise(
    out: Path,
    train: CocoSet,
    val: CocoSet,
    settings: list[Setting],
    leakage: str,
    results: dict[str, dict[str, CocoAP]],
    detectors: dict[str, tuple[str, Path]],
) -> Detection:
    """Write plot, pictures and summary, and tell of them."""
    plot_precision_recall(results, out / 'precision_recall.png')
    (_, checkpoint), kinds = next(iter(detectors.values())), next(iter(results.values()))

    found = _predictions(out / 'training', 'segm' if 'segm' in kinds else 'bbox')
    pictures, threshold = _draw(val, found, out / 'pictures')
    summary, sets = out / 'summary.md', (train.content, val.content)
    summary.write_text(
        detection_summary(results, settings, detectors, sets, leakage, pictures, threshold, out),
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


def _write(path: Path, text: str, resume: bool, read: Callable[[str], dict]) -> None:
    """Write a file; on resuming, only compare what it says with what the run began with."""
    if resume and path.exists():
        before, now = read(path.read_text(encoding='utf-8')), read(text)
        if before != now:
            raise ValueError(
                f'{path} was written with other annotations or settings: pass with --resume what '
                'the run was started with, or choose another --out '
                f'({differences(before, now)})'
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def _settings_of(text: str) -> dict:
    """What a config says, but for what the first versions did not, or said otherwise."""
    settings = Config.fromstring(text, '.py').to_dict() | dict(share_batch=True)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        load, *_ = settings[name]['dataset']['pipeline']
        if load['type'] == 'LoadImageFromFile':
            load['type'] = 'LoadAnyImage'
        load.pop('levels', None)
    return settings


def _annotations_of(text: str) -> dict:
    """What a set holds, but for what the first versions did not note down."""
    return json.loads(text) | dict(info=None)


def _train(config: Path, start: Start, processes: int) -> tuple[Path, dict[str, CocoAP]]:
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
            levels_of(val.content),
        )
        for number, image in enumerate(images[::step][:_PICTURES])
    ]
    return pictures, threshold
