"""Checkpoints compared by what their features tell of labelled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..backbones import check_starts
from ..checkpoints import refuse_inputs, write_text
from ..console import check_least, say
from ..datasets.labelled import list_labelled, part
from ..datasets.leakage import tell_of_leakage
from ..engine.run import read_encoder
from ..evaluation.cache import key_of, recall, remember
from ..evaluation.encoder import Encoder
from ..evaluation.probes import Score, probe, score
from ..evaluation.representation import features_key, represent_images
from ..visualization.evaluation_summary import accuracy_table, how_measured, scores_csv

_WRITTEN = ('evaluation.md', 'evaluation.csv', 'leakage.csv')


class Evaluation(NamedTuple):
    """How good some representations are.

    Attributes:
        scores: For each checkpoint, as it was named, the score of each classifier.
        markdown: A file with the table.
        csv: The same, a line for each score.
    """

    scores: dict[str, dict[str, Score]]
    markdown: Path
    csv: Path


def evaluate(
    checkpoints: Sequence[str | Path],
    images: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    val: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    image_root: str | Path | None = None,
) -> Evaluation:
    """Compare checkpoints by k-NN, linear and few-shot classification of their features.

    What an evaluation that was ended before had computed is not computed again.

    Args:
        checkpoints: Of any origin; a run's folder stands for its newest; ``'random'`` for random
            weights, of the architecture of the first other or of a ResNet-50. Differences are
            by how much the first is ahead.
        images: Labelled images: a folder, tar, text or COCO json file, or a csv with the columns
            ``path`` and ``label``. A folder with ``train`` and ``val`` in it is parted by these.
        out: Folder to write into.
        labels: ``'folders'``, where folder names are classes, ``'cls'``, where tars have
            ``.cls`` files, or a csv file; by default those of a csv, or else folder names.
        val: Images to validate on; by default a fifth of each class is drawn.
        seed: Seed of all that is drawn.
        workers: Processes that load images; by default one for each core, up to 8.
        image_root: Folder from which paths in text, json and csv files are meant;
            by default the folder of the file.

    Returns:
        The scores, and where they were written.

    Raises:
        FileNotFoundError: If checkpoints, images or labels are not there.
        ValueError: If they cannot be used, or there are too few images.
    """
    check_least(dict(seed=seed), seed=0)
    names = [str(checkpoint) for checkpoint in checkpoints]
    if len(set(names)) < len(names):
        raise ValueError(f'checkpoints={names} name one twice: leave it out')
    check_starts(checkpoints=names)
    refuse_inputs(out, _WRITTEN, dict(images=images, labels=labels, val=val))
    classes, given = list_labelled(images, labels, val, image_root)
    val = part(classes, given, seed)
    encoders = _read_encoders(names, seed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    learned = [path for path in classes if path not in val]
    leakage = tell_of_leakage(out, learned, [path for path in classes if path in val], names)
    files = Evaluation({}, out / 'evaluation.md', out / 'evaluation.csv')
    first = None
    for name, encoder in encoders.items():
        right, about = _probe(encoder, classes, val, seed, workers)
        if first is None:
            first = right
        files.scores[name] = {
            kind: score(values, None if right is first else first[kind])
            for kind, values in right.items()
        }
        text = f'{accuracy_table(files.scores)}\n{about}\n{leakage}\n'
        for path, content in ((files.markdown, text), (files.csv, scores_csv(files.scores))):
            write_text(path, content)
    say(f'\n{text}')
    return files


def _read_encoders(names: Sequence[str], seed: int) -> dict[str, Encoder]:
    """Read all checkpoints before anything is computed, so that mistakes come first."""
    read = {name: read_encoder(name) for name in names if name != 'random'}
    like = next(iter(read.values()), None)
    return {name: read[name] if name in read else Encoder.random(like, seed) for name in names}


def _probe(
    encoder: Encoder, classes: dict[Path, str], val: set[Path], seed: int, workers: int | None
) -> tuple[dict[str, np.ndarray], str]:
    """Whether each classifier is right, as of :func:`~..evaluation.probes.probe`, and how told."""
    paths, labels = list(classes), list(classes.values())
    tested = np.array([path in val for path in paths])
    key = key_of('probe', features_key(encoder, paths), labels, tested.tolist(), seed)
    kept = recall(key)
    if kept is None:
        say(f'{encoder.name}:', err=True)
        found = represent_images(encoder, paths, labels, parts=['features'], workers=workers)
        labels, tested = np.array(found.labels), tested[found.numbers]
        if len(set(labels[~tested])) < 2 or not tested.any():
            raise ValueError('the images that can be read are of one class, or of one part')
        kept = probe(found.parts['features'].numpy(), labels, tested, seed)
        about = how_measured(labels, tested, seed)
        remember(key, kept | dict(about=np.array(about)))
        return kept, about
    about = str(kept.pop('about'))
    return kept, about
