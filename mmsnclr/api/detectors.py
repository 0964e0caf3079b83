"""Detectors that are trained and measured alike from several starts, on a set or parts of it."""

import copy
import json
import os
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..checkpoints import at_hand, write_text
from ..console import Setting, say
from ..datasets.coco import CocoSet, category_names, levels_of, objects_of
from ..datasets.decoding import read_image
from ..engine import build_runner
from ..engine.launch import launch, set_processes
from ..evaluation.coco import CocoAP, evaluate_coco, resample_ap
from ..evaluation.study import Measured, draw_images
from ..parents import only_progress
from ..recipes.detection import (
    fit_to_backbone,
    fit_to_files,
    fit_to_iterations,
    fit_to_objects,
    fit_to_run,
    leave_out_narrow,
)
from ..recipes.detector_backbones import Start
from ..recipes.differences import differences
from ..visualization import plot_precision_recall
from ..visualization.detection_summary import (
    KINDS,
    ap_advice,
    ap_limit,
    ap_table,
    detection_summary,
)
from ..visualization.detections import draw_detections
from .study import Subset

_PICTURES, _THRESHOLD = 12, 0.3


class Detection(NamedTuple):
    """What :func:`~.detect.detect` made.

    Attributes:
        checkpoint: The trained detector, for :func:`mmsnclr.api.predict.predict`.
        results: Average precision of each kind (``'bbox'``, ``'segm'``) for each
            run, the first being that from the given backbone.
        summary: A file that tells all of it.
    """

    checkpoint: Path
    results: dict[str, dict[str, CocoAP]]
    summary: Path


class Fitted(NamedTuple):
    """Detectors that are ready to be trained.

    Attributes:
        cfgs: The config of each run, by its name.
        settings: What was chosen.
        train: The set that they learn from.
        val: The set that they are measured on.
    """

    cfgs: dict[str, Config]
    settings: list[Setting]
    train: CocoSet
    val: CocoSet


class Detectors(NamedTuple):
    """Detectors to be trained alike from several starts.

    Attributes:
        starts: What each run starts from, by its name, what is asked for first.
        recipe: The config that is fitted.
        detector: Its name, and why it was chosen.
        sized_by: The images by which the size is chosen if it is not given.
        val: The set that they are measured on.
        leakage: What of it was seen before, in words.
        options: ``size``, ``flip`` and ``skip_bad``, as the user has chosen.
        schedule: What :func:`~..recipes.detection.fit_to_iterations` takes.
        workers: Processes that load images, for each that trains.
        processes: How many train.
    """

    starts: dict[str, Start]
    recipe: Config
    detector: Setting
    sized_by: list[dict]
    val: CocoSet
    leakage: str
    options: dict
    schedule: dict
    workers: int
    processes: int

    def fit(self, train: CocoSet, seed: int) -> Fitted:
        """Fit the recipe to the backbone of each run and to a set to learn from."""
        size, flip, skip_bad = (self.options[name] for name in ('size', 'flip', 'skip_bad'))
        objects, val, cfgs, settings = objects_of(train.content)[1], self.val, {}, [self.detector]
        for name, start in self.starts.items():
            cfgs[name] = cfg = copy.deepcopy(self.recipe)
            chosen = fit_to_backbone(cfg, start.backbone)
            chosen += fit_to_objects(cfg, self.sized_by, objects, size, flip)
            train, val = leave_out_narrow(cfg, train, val, skip_bad)
            chosen += fit_to_iterations(cfg, len(objects_of(train.content)[0]), **self.schedule)
            suffix = f' ({name})' if len(cfgs) > 1 else ''
            settings += [
                row._replace(name=row.name + suffix) for row in chosen if row not in settings
            ]
        for cfg in cfgs.values():
            fit_to_files(cfg, train, val, self.workers, seed)
        return Fitted(cfgs, settings, train, val)

    def begin(self, fitted: Fitted, resume: bool) -> None:
        """Write the sets and the starts' weights."""
        for part in (fitted.train, fitted.val):
            write_set(part, resume)
        for start in self.starts.values():
            start.write()

    def train(self, fitted: Fitted, out: Path, resume: bool) -> tuple[Detection, str]:
        """Train and measure, or what is left to do of it; what was made, and a table of it."""
        results: dict[str, dict[str, CocoAP]] = {}
        detectors: dict[str, tuple[str, Path]] = {}
        for number, (name, start) in enumerate(self.starts.items()):
            folder = folder_of(out, number, name)
            config = _write_config(folder, name, fitted.cfgs[name], fitted.settings, resume)
            checkpoint, results[name] = _train(config, start, self.processes)
            detectors[name] = (start.source, checkpoint)
        return _summarise(out, fitted, self.leakage, results, detectors)


class DetectorTrainings:
    """Detectors of a study, as :class:`.study.Trainings` describes it.

    Args:
        detectors: How they are trained.
        train: The set whose parts they learn from.
        seed: By which the whole is fitted.
    """

    def __init__(self, detectors: Detectors, train: CocoSet, seed: int) -> None:
        # Images that are too narrow are left out before any are drawn.
        whole = detectors.fit(train, seed)
        self._detectors, self._train = detectors._replace(val=whole.val), whole.train
        self.title, self.processes = detectors.detector.value, detectors.processes
        self.leakage = detectors.leakage
        self.starts = {name: start.source for name, start in detectors.starts.items()}
        self._images, objects = objects_of(whole.train.content)
        having: dict = {image['id']: set() for image in self._images}
        for one in objects:
            having[one['image_id']].add(one['category_id'])
        self.classes: Sequence[Collection[Hashable]] = list(having.values())
        self.validated = len(whole.val.content['images'])
        self._whole = whole

    def begin(self, resume: bool) -> None:
        """Write the whole sets and the starts' weights."""
        self._detectors.begin(self._whole, resume)

    def write(self, subset: Subset) -> None:
        """Write the annotations of a subset, or check those that are there."""
        write_set(self._part(subset), True)

    def fit(self, start: str, subset: Subset) -> tuple[Config, Setting]:
        """The config of a training, and how long it is."""
        fitted = self._of(start).fit(self._part(subset), subset.seed)
        (length,) = (row for row in fitted.settings if row.name == 'iterations')
        return fitted.cfgs[start], length

    def train(self, start: str, subset: Subset, folder: Path) -> dict[str, Measured]:
        """Train to the end and measure, or what is left to do of it."""
        detectors = self._of(start)
        fitted = detectors.fit(self._part(subset), subset.seed)
        detection, _ = detectors.train(fitted, folder, True)
        draws, measures = draw_images(self.validated), {}
        for kind, ap in detection.results[start].items():
            found = _predictions(folder / 'training', kind)
            resampled = resample_ap(fitted.val.file, found, kind, draws)
            for number, field in enumerate(('ap', 'ap50')):
                values = resampled[:, number].round(4).tolist()
                name = f'{KINDS[kind]} {field.upper()}'
                measures[name] = Measured(getattr(ap, field), values)
        return measures

    def _of(self, start: str) -> Detectors:
        return self._detectors._replace(starts={start: self._detectors.starts[start]})

    def _part(self, subset: Subset) -> CocoSet:
        images = [self._images[number] for number in subset.numbers]
        ids, content = {image['id'] for image in images}, self._train.content
        annotations = [one for one in content['annotations'] if one['image_id'] in ids]
        return CocoSet(
            content | dict(images=images, annotations=annotations),
            subset.file.with_name(f'{subset.file.name}.json'),
            self._train.images,
        )


def _summarise(
    out: Path,
    fitted: Fitted,
    leakage: str,
    results: dict[str, dict[str, CocoAP]],
    detectors: dict[str, tuple[str, Path]],
) -> tuple[Detection, str]:
    """Write plot, pictures and summary."""
    plot_precision_recall(results, out / 'precision_recall.png')
    (_, checkpoint), kinds = next(iter(detectors.values())), next(iter(results.values()))
    found = _predictions(out / 'training', 'segm' if 'segm' in kinds else 'bbox')
    levels = levels_of(fitted.train.content)  # as the detector sees them
    pictures, threshold = _draw(fitted.val, found, levels, out / 'pictures')
    summary, sets = out / 'summary.md', (fitted.train.content, fitted.val.content)
    write_text(
        summary,
        detection_summary(
            results, fitted.settings, detectors, sets, leakage, pictures, threshold, out
        ),
    )
    advice = ap_limit(fitted.val.content) + ap_advice(results)
    return Detection(checkpoint, results, summary), f'{ap_table(results)}{advice}'


def folder_of(out: Path, number: int, name: str) -> Path:
    """The folder of a run; the first is what was asked for."""
    return out / name if number else out


def write_set(part: CocoSet, resume: bool) -> None:
    """Write the annotations of a set; on resuming, check that they are those that are there."""
    _write(part.file, json.dumps(part.content), resume, _annotations_of)


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
    write_text(path, text)


def _settings_of(text: str) -> dict:
    """What a config says, but for what the first versions did not, or said otherwise."""
    settings = Config.fromstring(text, '.py').to_dict()
    settings.update(share_batch=True, sync_bn='torch')
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
    set_processes(cfg, processes)
    work_dir = Path(cfg.work_dir)
    # The metric writes predictions down, and evaluate_coco rates them: it tells the classes' APs
    # and curves, too.
    cfg.val_evaluator.update(format_only=True, outfile_prefix=str(work_dir / 'predictions.draft'))
    files = {kind: _predictions(work_dir, kind) for kind in cfg.val_evaluator.metric}
    drafts = {_predictions(work_dir, f'draft.{kind}'): file for kind, file in files.items()}
    for file in (*drafts, *(file for file in files.values() if not _is_whole(file))):
        file.unlink(missing_ok=True)
    with at_hand(*start.files):
        launch(processes, _run, cfg, drafts)
    for draft, file in drafts.items():  # which are whole
        if draft.exists():
            os.replace(draft, file)
    truth = cfg.val_evaluator.ann_file
    results = {kind: evaluate_coco(truth, file, kind) for kind, file in files.items()}
    return work_dir / f'iter_{cfg.train_cfg.max_iters}.pth', results


def _is_whole(file: Path) -> bool:
    """Whether predictions were written to their end."""
    with suppress(OSError, ValueError):
        return isinstance(json.loads(file.read_bytes()), list)
    return False


def _run(cfg: Config, drafts: dict[Path, Path]) -> None:
    with only_progress():
        runner = build_runner(cfg)
        runner.train()
        # The validation may have been interrupted.
        if not any(all(map(Path.exists, files)) for files in (drafts, drafts.values())):
            runner.val()


def _predictions(work_dir: Path, kind: str) -> Path:
    return work_dir / f'predictions.{kind}.json'


def _draw(
    val: CocoSet, found: Path, levels: tuple[int, int] | None, folder: Path
) -> tuple[list[Path], float]:
    """Pictures of some validation images, predictions beside the truth, and the lowest score."""
    predictions = json.loads(found.read_text(encoding='utf-8'))
    images, annotations = val.content['images'], val.content['annotations']
    # A weak detector's best are shown too, as many as there are objects.
    scores = sorted((p['score'] for p in predictions), reverse=True)
    threshold = min([_THRESHOLD, *scores[: len(objects_of(val.content)[1])]])
    step = max(1, len(images) // _PICTURES)
    pictures = [
        draw_detections(
            read_image(val.images / image['file_name'], levels),
            [p for p in predictions if p['image_id'] == image['id']],
            category_names(val.content),
            folder / f'{number:02d}_{Path(image["file_name"]).stem}.jpg',
            [a for a in annotations if a['image_id'] == image['id']],
            threshold,
        )
        for number, image in enumerate(images[::step][:_PICTURES])
    ]
    return pictures, threshold
