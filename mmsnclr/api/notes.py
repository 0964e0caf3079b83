"""What a folder holds: a run, or a study by its notes, which tell what it began with."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from ..checkpoints import refuse_inputs
from ..recipes.differences import differences

NOTES = 'study.json'
_WRITTEN = (NOTES, 'results.csv', 'results.json')
_CONTENT = 'content of '
_PATHS = ('train_json', 'images', 'val_json', 'val_images')
# What may differ on resuming: the machine, and how far the study goes.
_FREE = {'out', 'resume', 'gpus', 'workers', 'fractions', 'seeds', 'backbone', 'compare'}


def check_folder(
    out: Path,
    written: Sequence[str],
    arguments: dict,
    starts: dict[str, str],
    processes: int,
    resume: bool,
) -> dict:
    """Refuse a folder that holds something else than the study that is asked for.

    Args:
        out: The folder.
        written: What the verb's own files in it are called.
        arguments: Of the verb.
        starts: As of :class:`~.study.Trainings`.
        processes: How many train now.
        resume: Whether the study may be there.

    Returns:
        What it was begun with, or is: ``arguments``, ``starts``, what their files hold
        (``contents``) and ``processes``.

    Raises:
        ValueError: If it holds another study, a run, or what would be written over.
    """
    given = {name: value for name, value in arguments.items() if name not in _FREE}
    contents = {
        f'{_CONTENT}{source}': blake2b(Path(source).read_bytes(), digest_size=8).hexdigest()
        for source in starts.values()
        if Path(source).is_file()
    }
    said = dict(arguments=given, starts=starts, contents=contents, processes=processes)
    notes = _absolute(json.loads(json.dumps(said, default=str)))
    if (out / 'config.py').exists():
        raise ValueError(f'out={str(out)!r} holds a single run: choose another folder')
    if not (out / NOTES).exists():
        refuse_inputs(out, (*written, *_WRITTEN), arguments)
        return notes
    if not resume:
        raise ValueError(
            f'out={str(out)!r} holds a study already: choose another folder, or pass --resume '
            'to continue it, also with more --fractions, --seeds or --compare'
        )
    before = _absolute(json.loads((out / NOTES).read_text('utf-8')))
    for name in ('arguments', 'starts', 'contents'):
        _refuse_change(out, before[name], notes[name])
    added = {name: notes[name] | before[name] for name in ('starts', 'contents')}
    return before | added


def _absolute(notes: dict) -> dict:
    """Notes with absolute paths; `detect` of the first versions noted them as they were typed."""
    parts = {name: dict(notes.get(name, {})) for name in ('arguments', 'starts', 'contents')}
    for name in _PATHS:
        if path := parts['arguments'].get(name):
            parts['arguments'][name] = os.path.abspath(path)
    for name, source in parts['starts'].items():
        parts['starts'][name] = source if source == 'random' else os.path.abspath(source)
    parts['contents'] = {
        re.sub(f'(?<=^{_CONTENT}).+', lambda path: os.path.abspath(path[0]), name): digest
        for name, digest in parts['contents'].items()
    }
    return notes | parts


def note_classes(out: Path, notes: dict, classes: Iterable[tuple[Path, str]]) -> None:
    """Note down what labelled images are, or check that it is what a study began with.

    Args:
        out: Folder of the study.
        notes: As of :func:`check_folder`; changed in place. Those of the first versions lack it.
        classes: The images and their classes.

    Raises:
        ValueError: If they are others than those noted.
    """
    content = repr(sorted((str(path), name) for path, name in classes))
    digest = blake2b(content.encode(errors='surrogatepass'), digest_size=8).hexdigest()
    now = {'images and their classes': digest}
    _refuse_change(out, notes['contents'], now)
    notes['contents'] |= now


def _refuse_change(out: Path, before: dict, now: dict) -> None:
    """Refuse what differs from the notes of a study; what these lack is free."""
    now = before | {key: value for key, value in now.items() if key in before}
    if before != now:
        raise ValueError(
            f'the study in {out} was started otherwise ({differences(before, now)}): pass with '
            '--resume what it was started with, or choose another --out'
        )


def refuse_study(out: Path) -> None:
    """Refuse a folder that holds a study for a single run."""
    if (out / NOTES).exists():
        raise ValueError(
            f'out={str(out)!r} holds a study: pass its --fractions and --resume to continue it, '
            'or choose another folder'
        )


def refuse_run(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, unless that is to be continued."""
    if not resume:
        raise ValueError(
            f'out={str(out)!r} holds a run already: choose another folder, or pass --resume '
            'to continue what was interrupted'
        )
