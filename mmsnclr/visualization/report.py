"""One page about a pretraining run."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import EngFormatter, MaxNLocator
from mmengine.config import Config

from ..evaluation import health
from .neighbors import Gallery, gallery_view
from .pages import write_page

# Title, meaning, the logged values by what the page calls them, and the axis's least range.
_CHARTS: tuple[tuple[str, str, dict[str, str], Sequence[float]], ...] = (
    ('Loss', 'Rises where neighbours join: they add negatives.', dict(loss='loss'), ()),
    ('Learning rate', 'As the schedule sets it.', {'learning rate': 'lr'}, (0,)),
    (
        'Spread of features',
        'Standard deviation per dimension times √D.',
        {'feature std': 'feature_std'},
        (0, 1),
    ),
    (
        'Effective rank',
        'RankMe: in how many directions features extend.',
        {'effective rank': 'effective_rank'},
        (0,),
    ),
    (
        'Similarity',
        'Cosine to the K nearest, and of random pairs.',
        {'neighbours': 'neighbor_similarity', 'random pairs': 'random_similarity'},
        (0, 1),
    ),
    (
        'View recall',
        'Images whose other view is nearer than neighbour K.',
        {'view recall': 'view_recall', 'by chance': 'chance_recall'},
        (0,),
    ),
    (
        'Purity and k-NN accuracy',
        'Neighbours of the same class, and their right votes.',
        {'purity': 'neighbor_purity', 'by chance': 'chance_purity', 'k-NN': 'knn_accuracy'},
        (0,),
    ),
    (
        'Evenness of positiveness',
        'Entropy over log K. 1: all neighbours count the same.',
        {'evenness': 'positiveness_evenness'},
        (0, 1),
    ),
    (
        'Own older features',
        'Images with one in the set, or passed over among the K.',
        {'in the set': 'self_in_set', 'passed over': 'self_excluded'},
        (0,),
    ),
    ('Set fill', 'Share of the set that holds a feature.', {'fill': 'queue_fill'}, (0, 1)),
    ('Set age', 'Iterations since the oldest entry was made.', {'age': 'queue_age'}, (0,)),
    ('Time of an iteration', 'In seconds.', dict(all='time', data='data_time'), (0,)),
)
_MAX_POINTS = 400
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 215, 48, 388, 8, 168


def write_report(
    path: str | Path,
    cfg: Config,
    lines: Sequence[Mapping[str, float]],
    settings: Mapping[str, object],
    environment: Mapping[str, object],
    gallery: Gallery | None = None,
    projection: dict | None = None,
) -> Path:
    """Write the page, which needs no other file and no network.

    Args:
        path: File to write.
        cfg: The config of the run.
        lines: Its log, see :func:`~mmsnclr.engine.run.read_log`.
        settings: What to show of the settings, ``'backbone'`` among them, besides the whole
            config.
        environment: What to show of the machine and the libraries.
        gallery: Images with their neighbours.
        projection: ``picture``, an address, and ``about``, a sentence.

    Returns:
        The page's path.
    """
    problems, verdict = judge(lines, cfg)
    charts = [_chart(*chart, lines) for chart in _CHARTS]
    return write_page(
        path,
        'report.html',
        title=f'{cfg.model.type}: {Path(path).resolve().parent.name}',
        about=f'{settings["backbone"]}, logged up to iteration {lines[-1]["step"]}'
        + (f' in epoch {lines[-1]["epoch"]}' if 'epoch' in lines[-1] else ''),
        problems=problems,
        steps=lines[-1]['step'],
        verdict=verdict,
        charts=[chart for chart in charts if chart is not None],
        gallery=None if gallery is None else gallery_view(gallery),
        projection=projection,
        settings=settings.items(),
        environment=environment.items(),
        config=cfg.pretty_text,
    )


def judge(lines: Sequence[Mapping[str, float]], cfg: Config) -> tuple[list[str], list[tuple]]:
    """Say in plain words how a run is doing.

    Args:
        lines: Its log.
        cfg: Its config.

    Returns:
        What is wrong, a sentence each, by the mean over the last tenth of the
        log; and name, value, state (``'good'``, ``'bad'`` or ``''``) and
        meaning of each of the measures that exist.
    """
    recent = lines[-max(1, len(lines) // 10) :]
    values = {
        name: sum(line[name] for line in recent) / len(recent)
        for name in set.intersection(*(set(line) for line in recent))
        if isinstance(recent[-1][name], int | float)
    }
    found = health.findings(values, cfg)
    ill, noise = found.keys() & {'diverged', 'collapsed'}, 'noise' in found
    rows = []

    def row(title: str, name: str, text: str, bad: bool | None, meaning: str) -> None:
        if name in values:
            value = 100 * values[name] if text.endswith('%') else values[name]
            state = '' if bad is None else 'bad' if bad else 'good'
            rows.append((title, text.format(value), state, meaning))

    def percent(name: str) -> str:
        return f'{100 * values.get(name, math.nan):.3g} %'

    meaning = f'From {lines[0]["loss"]:.2f} in the first log line.'
    row('Loss', 'loss', '{:.2f}', None, meaning)
    meaning = '1 where features spread evenly over the sphere, 0 after a collapse.'
    row('Spread of features', 'feature_std', '{:.2f}', bool(ill), meaning)
    meaning = f'Directions in use, of {cfg.model.queue.dim} (RankMe). About 1 after a collapse.'
    row('Effective rank', 'effective_rank', '{:.1f}', bool(ill), meaning)
    meaning = f'Cosine; of random pairs {values.get("random_similarity", math.nan):.2f}.'
    row('Similarity of neighbours', 'neighbor_similarity', '{:.2f}', None, meaning)
    meaning = (
        f'Images whose other view is nearer than neighbour K; by chance {percent("chance_recall")}.'
    )
    labelled = 'neighbor_purity' in values
    row('View recall', 'view_recall', '{:.0f} %', None if labelled else noise, meaning)
    meaning = f'Of random images {percent("chance_purity")} would be.'
    row('Neighbours of the same class', 'neighbor_purity', '{:.0f} %', noise, meaning)
    row('k-NN accuracy', 'knn_accuracy', '{:.0f} %', None, 'Images whose neighbours vote right.')
    meaning = (
        f'Of {cfg.model.queue.length:,} entries, the oldest {values.get("queue_age", 0):.0f} '
        'iterations old.'
    )
    row('Fill of the set', 'queue_fill', '{:.0f} %', None, meaning)
    problems = list(found.values())
    if 'feature_std' not in values:
        problems = ["The log has no health: train with default_hooks.health.type='HealthHook'."]
    return problems, rows


def _chart(
    title: str, about: str, names: dict, least: Sequence[float], lines: Sequence[Mapping]
) -> dict | None:
    """Positions and texts of one chart; ``None`` where nothing was logged."""
    names = {shown: name for shown, name in names.items() if any(name in line for line in lines)}
    if not names:
        return None
    lines = [line for line in lines if any(name in line for name in names.values())]
    every = math.ceil(len(lines) / _MAX_POINTS)
    lines = [*lines[:-1:every], lines[-1]]
    steps = [line['step'] for line in lines]
    table = [[_finite(line.get(name)) for line in lines] for name in names.values()]
    finite = [value for row in table for value in row if value is not None] + [*least]
    low, high = min(finite, default=0), max(finite, default=1)
    if low == high:  # matplotlib would show an axis of 1e-13 around it
        low, high = min(low, 0), max(high, 0) or 1
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3).tick_values(low, high)
    x_ticks = MaxNLocator(4, integer=True).tick_values(steps[0], steps[-1])
    x_ticks = [tick for tick in x_ticks if steps[0] <= tick <= steps[-1]]
    span = max(steps[-1] - steps[0], 1)

    def x(step: float) -> float:
        return round(_LEFT + (step - steps[0]) / span * (_RIGHT - _LEFT), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_BOTTOM - _TOP), 1)

    drawn = [
        dict(
            name=shown,
            last=_text(next((v for v in reversed(row) if v is not None), None)),
            points=' '.join(f'{x(s)},{y(v)}' for s, v in zip(steps, row) if v is not None),
        )
        for shown, row in zip(names, table)
    ]
    data = dict(
        left=_LEFT,
        right=_RIGHT,
        steps=steps,
        first=steps[0],
        last=steps[-1],
        values=[[None if value is None else _text(value) for value in row] for row in table],
    )
    return dict(
        title=title,
        about=about,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        x_ticks=[(x(tick), EngFormatter(sep='')(tick)) for tick in x_ticks],
        y_ticks=[(y(tick), _text(tick)) for tick in ticks],
        lines=drawn,
        data=json.dumps(data),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _text(value: float | None) -> str:
    """A number as an axis shows it."""
    if value is None:
        return 'not finite'
    return f'{value:.1e}' if 0 < abs(value) < 0.001 else f'{value:.4g}'
