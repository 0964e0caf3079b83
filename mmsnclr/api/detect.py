"""Train a detector on images with boxes or masks."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from ..backbones import check_starts, name_starts
from ..checkpoints import refuse_inputs, sole_writer
from ..console import Setting, check_least, check_positive, say, settings_table
from ..datasets.coco import CocoSet, mask_crowds, objects_of
from ..datasets.detection_sets import read_sets
from ..datasets.leakage import tell_of_leakage
from ..engine.launch import count_processes, share_of_batch
from ..engine.optim import set_amp
from ..recipes.detection import load_detector
from ..recipes.detector_backbones import read_starts
from ..requirements import check_detection_requirements
from .detectors import Detection, Detectors, DetectorTrainings, folder_of
from .notes import check_folder, refuse_run, refuse_study
from .study import Study, check_extent, run_study

_WRITTEN = ('train.json', 'val.json', 'init/*.pth')


@sole_writer
def detect(
    train_json: str | Path,
    images: str | Path | None,
    backbone: str | Path,
    out: str | Path,
    *,
    val_json: str | Path | None = None,
    val_images: str | Path | None = None,
    compare: str | Path | Sequence[str | Path] = (),
    fractions: Sequence[float] | None = None,
    seeds: int | None = None,
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
) -> Detection | Study:
    """Train Mask R-CNN from a pretrained backbone, and measure it.

    Faster R-CNN where an annotation has no mask. ``out`` receives ``config.py``, which
    ``tools/train.py`` runs again, the annotations, ``training/``, pictures and ``summary.md``.

    Args:
        train_json: Annotations in COCO's format; or data.yaml or the folder of a YOLO set; or
            Pascal VOC's folder of xml files.
        images: Folder that file names in it start from; YOLO and VOC sets tell it themselves.
        backbone: Checkpoint of a ResNet, a ViT or another model of timm that has feature maps, or
            ``'random'``: random weights, of the architecture of the first in ``compare`` that is
            a checkpoint, or of a ResNet-50.
        out: Folder to write into.
        val_json: The same to validate on; by default the set's own part for it, else a fifth.
        val_images: Folder of its file names; ``images`` by default, if it is a json file.
        compare: ``'random'`` or other checkpoints; the same is trained from each.
        fractions: Percents of the annotated training images; the same is trained on so many of
            them, for each of ``seeds``. Without this and ``seeds``, once on all of them.
        seeds: How many seeds, from ``seed`` on, draw these images and train; 3 by default.
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
        Where the detector is and how good it is; with ``fractions`` or ``seeds``, what all
        trainings came to.

    Raises:
        FileNotFoundError, ChildProcessError: If a file is not there; if a process was killed.
        ImportError: If mmdet or mmcv's operators are missing.
        ValueError: If annotations or settings are wrong, or ``out`` holds another run.
    """
    given = locals() | dict(out=Path(out).resolve())
    given['compare'] = [compare] if isinstance(compare, str | Path) else compare or ()
    extent = check_extent(fractions, seeds)
    check_least(given, size=32, iterations=2, batch=2, workers=0, seed=0)
    check_positive(given, 'epochs', 'lr')
    if None not in (iterations, epochs):
        raise ValueError('iterations and epochs say the same: pass one of them')
    if val_images is not None and val_json is None:
        raise ValueError('val_images is given without val_json, the annotations that go with it')
    check_starts(backbone=[backbone], compare=given['compare'])
    check_detection_requirements()
    set_amp(load_detector(masks=False), amp)  # refuses what no detector has
    return _detect(given, extent)


def _detect(given: dict, extent: tuple[list[float], int] | None) -> Detection | Study:
    """Train by the arguments of :func:`detect`, once or over an extent."""
    out, resume = given['out'], given['resume']
    names = name_starts(given['backbone'], given['compare'])
    processes = began_by = count_processes(given['gpus'])
    if extent is None:
        given['batch'] = _check_out(out, resume, given['batch'])
        if not resume:  # it would compare them
            refuse_inputs(out, _WRITTEN, given)
    else:
        notes = check_folder(out, _WRITTEN, given, names, processes, resume)
        began_by = notes['processes']
    share_of_batch(given['batch'] or 0, processes)
    starts = read_starts(names, out / 'init')
    if resume:
        for number, name in enumerate(names):
            single = [folder_of(out, number, name) / 'config.py']
            configs = single if extent is None else out.glob(f'runs/{name}/*/*/config.py')
            starts[name] = starts[name].as_begun(configs)
    train, val = read_sets(
        given['train_json'],
        given['images'],
        given['val_json'],
        given['val_images'],
        out,
        given['skip_bad'],
        given['seed'],
    )
    cfg, detector, train, val = _choose_detector(train, val)
    set_amp(cfg, given['amp'])
    options = {name: given[name] for name in ('size', 'flip', 'skip_bad')}
    schedule = {name: given[name] for name in ('iterations', 'epochs', 'batch', 'lr')}
    schedule['processes'] = began_by
    sized_by = objects_of(train.content)[0]
    detectors = Detectors(
        starts, cfg, detector, sized_by, val, '', options, schedule, given['workers'], processes
    )
    # What cannot be trained is refused before anything is written.
    fitted = detectors.fit(train, given['seed'])
    seen = tell_of_leakage(out, fitted.train.paths, fitted.val.paths, list(names.values()))
    detectors = detectors._replace(leakage=seen)
    if extent is not None:
        trainings = DetectorTrainings(detectors, train, given['seed'])
        trainings.begin(resume)
        return run_study(trainings, out, extent, notes)
    say(settings_table(fitted.settings))
    detectors.begin(fitted, resume)
    detection, table = detectors.train(fitted, out, resume)
    say(f'\n{table}\nAll of it: {detection.summary}')
    return detection


def _check_out(out: Path, resume: bool, batch: int | None) -> int | None:
    """Refuse a folder that is not to be written into; the batch, by default of a run in it."""
    refuse_study(out)
    config = out / 'config.py'
    if not config.exists():
        return batch
    cfg = Config.fromfile(config)
    if cfg.get('default_scope') != 'mmdet':
        raise ValueError(f'out={str(out)!r} holds no detector: choose another folder')
    # What ended before there was a checkpoint is begun again.
    if not resume and not any(out.rglob('training/*.pth')):
        return batch
    refuse_run(out, resume)
    return cfg.train_dataloader.batch_size if batch is None else batch


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
