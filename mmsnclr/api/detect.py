"""Train a detector on a COCO-format set."""

import json
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..backbones import read_backbone
from ..checkpoints import Stored
from ..console import Setting, say, settings_table
from ..datasets.coco import Mistake, check_coco, describe_mistakes, split_coco
from ..engine import build_runner
from ..evaluation.coco import CocoAP, evaluate_coco
from ..parents import only_progress
from ..recipes.detection import (
    Backbone,
    config_text,
    derive_schedule,
    detector_backbone,
    detector_config,
)
from ..requirements import check_detection_requirements
from ..visualization import plot_precision_recall
from ..visualization.detection_summary import ap_advice, ap_table, detection_summary
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
    batch: int = 4,
    lr: float | None = None,
    flip: bool = True,
    skip_bad: bool = False,
    workers: int = 2,
    seed: int = 0,
    resume: bool = False,
) -> Detection:
    """Train Mask R-CNN from a pretrained backbone, and measure it.

    Faster R-CNN where an annotation has no mask. The annotations are checked
    before anything is trained. ``out`` receives ``config.py``, which
    ``tools/train.py`` runs again, the annotations as used, ``training/`` with
    checkpoints, logs and the predictions on the validation images, a
    precision-recall plot, pictures of predictions beside the truth, and
    ``summary.md``.

    Args:
        train_json: Annotations in COCO's format.
        images: Folder that its file names start from.
        backbone: Checkpoint with a ResNet; foreign ones go through
            :func:`mmsnclr.api.import_checkpoint` first.
        out: Folder to write into.
        val_json: Annotations to validate on; without them a fifth of the
            annotated training images is drawn and set aside.
        val_images: Folder that its file names start from; ``images`` by default.
        compare: ``'random'`` or another checkpoint; the same is trained from it.
        size: Longer side of the images in pixels.
        iterations: Number of training steps.
        epochs: The same in passes over the annotated images.
        batch: Images in a step.
        lr: Learning rate.
        flip: Whether to mirror training images at random.
        skip_bad: Whether to leave wrong images and annotations out.
        workers: Processes that load images.
        seed: Seed of the split and the training.
        resume: Whether to continue what is in ``out`` after an interruption; the
            other arguments are those that it was started with.

    Returns:
        Where the detector is and how good it is.

    Raises:
        FileNotFoundError: If a file is not there.
        ImportError: If mmdet or mmcv's operators are missing.
        ValueError: If annotations are wrong or a setting is, or ``out`` holds
            what was made with others.
    """
    out = Path(out).resolve()
    if (out / 'config.py').exists() and not resume:
        raise ValueError(
            f'out={str(out)!r} holds a run already: choose another folder, or pass --resume '
            'to continue what was interrupted'
        )
    if val_images is not None and val_json is None:
        raise ValueError('val_images is given without val_json, the annotations that go with it')
    check_detection_requirements()
    config = out / 'config.py'
    if resume and config.exists() and Config.fromfile(config).get('default_scope') != 'mmdet':
        raise ValueError(f'out={str(out)!r} holds no detector: choose another folder')
    starts = {'pretrained': _start(backbone)}
    if compare == 'random':
        starts['random'] = starts['pretrained']._replace(init_cfg=None)
    elif compare is not None:
        starts['compared'] = _start(compare)

    images, val_images = Path(images).resolve(), Path(val_images or images).resolve()
    for name, folder in dict(images=images, val_images=val_images).items():
        if not folder.is_dir():
            raise FileNotFoundError(f'{name}={str(folder)!r} is not a folder')
    sets = _read_sets(train_json, images, val_json, val_images, out, skip_bad)
    if val_json is None:
        sets += split_coco(sets.pop(), _VAL_SHARE, seed)
        count = len(sets[1]['images'])
        say(f'No --val: {count} of the images were drawn to validate on (seed {seed})')
    settings, choices = derive_schedule(sets[0], size, iterations, epochs, batch, lr, flip)
    masks, note = _masks(sets)
    choices.insert(0, note)
    say(settings_table(choices))

    files = []
    for name, content in zip(('train', 'val'), sets):
        files.append(out / f'{name}.json')
        _write(files[-1], json.dumps(content), resume)
    parts = list(zip(files, (images, val_images)))
    kinds = ('bbox', 'segm') if masks else ('bbox',)
    results, checkpoints = {}, {}
    for name, start in starts.items():
        folder = out if name == 'pretrained' else out / name
        work_dir = folder / 'training'
        config = detector_config(
            start, settings, sets[0]['categories'], masks, *parts, work_dir, workers, seed
        )
        head = [f'{choices[0].value} from the {name} backbone; to train it again: ']
        head[0] += 'python tools/train.py THIS_FILE --work-dir ELSEWHERE\n'
        head += [f'{choice.name}: {choice.value} ({choice.reason})' for choice in choices]
        _write(folder / 'config.py', config_text(config, masks, '\n'.join(head)), resume)
        say(f'Training from the {name} backbone by {folder / "config.py"}; logs are in {work_dir}')
        _train(folder / 'config.py', kinds)
        checkpoints[name] = work_dir / f'iter_{settings["iterations"]}.pth'
        results[name] = {
            kind: evaluate_coco(files[1], _predictions(work_dir, kind), kind) for kind in kinds
        }
    plot_precision_recall(results, out / 'precision_recall.png')
    pictures, threshold = _draw(sets[1], val_images, out, masks)
    sources = dict(pretrained=str(backbone), random='random weights', compared=str(compare))
    summary = out / 'summary.md'
    summary.write_text(
        detection_summary(results, choices, checkpoints, sources, sets, pictures, threshold, out)
    )
    say(f'\n{ap_table(results)}{ap_advice(results)}\nAll of it: {summary}')
    return Detection(checkpoints['pretrained'], results, summary)


def _start(checkpoint: str | Path) -> Backbone:
    trained = read_backbone(Stored.read(checkpoint))
    return detector_backbone(trained.cfg, trained.preprocessing, checkpoint)


def _read_sets(
    train_json: str | Path,
    images: Path,
    val_json: str | Path | None,
    val_images: Path,
    out: Path,
    skip_bad: bool,
) -> list[dict]:
    """The training set and, if there is one, the validation set, checked."""
    sets: list[dict] = []
    mistakes: list[Mistake] = []
    pairs = [(train_json, images)] + ([(val_json, val_images)] if val_json else [])
    for ann_file, folder in pairs:
        content, found = check_coco(ann_file, folder)
        sets.append(content)
        mistakes += found
    if mistakes:
        text = describe_mistakes(mistakes, out / 'mistakes.csv')
        if any(mistake.fatal for mistake in mistakes) and not skip_bad:
            raise ValueError(f'{text}\nMend them, or leave these annotations out by --skip-bad')
        say(text)
    if val_json is not None and _names(sets[0]) != _names(sets[1]):
        differ = sorted(set(_names(sets[0]).items()) ^ set(_names(sets[1]).items()), key=str)
        raise ValueError(
            f'{val_json} has other categories than {train_json}; ids and names must be the same: '
            f'{differ[:5]}'
        )
    if val_json is not None:
        sets[1]['categories'] = sets[0]['categories']  # labels follow their order
    return sets


def _names(content: dict) -> dict:
    return {category['id']: category['name'] for category in content['categories']}


def _masks(sets: list[dict]) -> tuple[bool, Setting]:
    """Whether there are masks to learn."""
    counted = [ann for content in sets for ann in content['annotations'] if not ann['iscrowd']]
    without = sum('segmentation' not in ann for ann in counted)
    if without:
        reason = f'{without} of {len(counted)} annotations have no mask'
        return False, Setting('detector', 'Faster R-CNN', reason)
    return True, Setting('detector', 'Mask R-CNN', f'all {len(counted)} annotations have masks')


def _write(path: Path, text: str, resume: bool) -> None:
    """Write a file; on resuming, only compare it with what the run began with."""
    if resume and path.exists():
        if path.read_text() != text:
            raise ValueError(
                f'{path} was written with other annotations or settings: pass with --resume what '
                'the run was started with, or choose another --out'
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _predictions(work_dir: str | Path, kind: str) -> Path:
    return Path(work_dir, f'predictions.{kind}.json')


def _train(path: Path, kinds: tuple[str, ...]) -> None:
    """Train to the end and validate, or what is left to do of it."""
    cfg = Config.fromfile(path)
    cfg.val_evaluator.outfile_prefix = str(Path(cfg.work_dir, 'predictions'))
    with only_progress():
        runner = build_runner(cfg)
        runner.train()
        # The validation may have been interrupted.
        if not all(_predictions(cfg.work_dir, kind).exists() for kind in kinds):
            runner.val()


def _draw(content: dict, images: Path, out: Path, masks: bool) -> tuple[list[Path], float]:
    """Pictures of some validation images, predictions beside the truth, and the lowest score."""
    file = _predictions(out / 'training', 'segm' if masks else 'bbox')
    predictions = json.loads(file.read_text())
    # A weak detector's few best are shown too.
    scores = sorted((p['score'] for p in predictions), reverse=True)
    threshold = min([_THRESHOLD, *scores[: 3 * len(content['images'])]])
    step = max(1, len(content['images']) // _PICTURES)
    pictures = [
        draw_detections(
            images / image['file_name'],
            [p for p in predictions if p['image_id'] == image['id']],
            _names(content),
            out / 'pictures' / f'{number:02d}_{Path(image["file_name"]).stem}.jpg',
            [a for a in content['annotations'] if a['image_id'] == image['id']],
            threshold,
        )
        for number, image in enumerate(content['images'][::step][:_PICTURES])
    ]
    return pictures, threshold
