"""`mmsnclr report`: one page about a run."""

import json
import re
import shutil
from html import unescape

import pytest
import torch
from browser import browse, check_page, needs_chromium
from click.testing import CliRunner
from mmengine.config import Config

from mmsnclr.api.report import report
from mmsnclr.cli import main
from mmsnclr.engine.run import latest_checkpoint, read_log
from mmsnclr.visualization.report import judge, write_report


@pytest.fixture(scope='session')
def page(trained):
    return report(trained)


def test_the_log_of_a_resumed_run_is_one(trained):
    lines = read_log(trained)
    assert len(list(trained.glob('*/vis_data/scalars.json'))) == 2
    assert [line['step'] for line in lines] == list(range(1, 13))
    assert [line['epoch'] for line in lines] == [1] * 6 + [2] * 6


def test_steps_that_a_resumed_part_repeats_count_once(tmp_path):
    for name, steps, loss in (('a', range(1, 8), 1.0), ('b', range(5, 10), 2.0)):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        lines = [json.dumps(dict(loss=loss, step=step)) for step in steps]
        (folder / 'scalars.json').write_text('\n'.join(lines))
    assert [line['loss'] for line in read_log(tmp_path)] == [1.0] * 4 + [2.0] * 5


def test_the_page_has_all_its_parts(page, trained):
    text = page.read_text()
    assert page == trained / 'report.html' and page.stat().st_size < 3_000_000
    headings = re.findall('<h2>(.*?)</h2>', text)
    assert headings == [
        'Does it work?',
        'Curves',
        'Nearest neighbours',
        'Projection',
        'Settings',
        'Environment',
    ]
    charts = re.findall('<h3>(.*?)</h3>\n<p class="soft">', text)
    assert charts[:3] == ['Loss', 'Learning rate', 'Spread of features']
    assert 'SNCLR' in text and 'type=&#39;NeighborQueue&#39;' in text and torch.__version__ in text
    assert text.count('class="query card"') == 12
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_the_curves_are_the_logged_values(page, trained):
    text = page.read_text()
    data = [json.loads(unescape(value)) for value in re.findall("data-chart='(.*?)'", text)]
    lines = read_log(trained)
    assert data[0]['steps'] == [line['step'] for line in lines]
    assert [float(value) for value in data[0]['values'][0]] == pytest.approx(
        [line['loss'] for line in lines], rel=1e-3
    )
    (points,) = re.findall('<polyline points="([^"]*)"', text)[:1]
    heights = [float(point.split(',')[1]) for point in points.split()]
    losses = [line['loss'] for line in lines]
    assert heights.index(min(heights)) == losses.index(max(losses))  # SVG's y points down
    assert len(heights) == 12 and all(8 <= height <= 168 for height in heights)


@needs_chromium
def test_the_page_needs_no_network_and_fits_the_window(page):
    check_page(page)


@needs_chromium
def test_the_pages_scripts_ran(page):
    assert re.search('id="count"[^>]*>12 queries<', browse(page))


def test_images_and_labels_can_be_chosen(trained, digits, tmp_path):
    run = shutil.copytree(trained, tmp_path / 'moved')
    result = CliRunner().invoke(
        main,
        ['report', str(run), '--images', str(digits / 'labelled' / 'val'), '--labels', 'folders'],
    )
    assert result.exit_code == 0, result.output
    text = (run / 'report.html').read_text()
    assert 'among 29 others' in text and 'class="same"' in text


def test_numbers_that_show_nothing_are_refused(trained):
    # The first two before anything is read.
    for run, option in (('none', 'shown'), ('none', 'queries'), (trained, 'max-images')):
        result = CliRunner().invoke(main, ['report', str(run), f'--{option}', '0'])
        assert result.exit_code == 1 and f'--{option}=0 must be at least 1' in result.output


def test_a_folder_without_a_run_is_named(tmp_path):
    result = CliRunner().invoke(main, ['report', str(tmp_path)])
    assert result.exit_code == 1 and 'no log in' in result.output
    with pytest.raises(FileNotFoundError, match='no checkpoint in'):
        latest_checkpoint(tmp_path)


def config(**model):
    model = dict(type='SNCLR', queue=dict(dim=64, length=512), head=dict(neighbors=8), **model)
    return Config(
        dict(
            model=model,
            optim_wrapper=dict(optimizer=dict(lr=0.3)),
            train_cfg=dict(max_epochs=20),
            custom_hooks=[dict(type='NeighborQueueHook', warmup_epochs=3)],
        )
    )


HEALTHY = dict(
    step=1, loss=5.0, feature_std=0.8, effective_rank=30.0, view_recall=0.6, chance_recall=0.02
)


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({}, None),
        (dict(feature_std=0.02), r'collapsed.*optim_wrapper\.optimizer\.lr=0\.1 \(now 0\.3\)'),
        (dict(effective_rank=1.1), r'collapsed.*optim_wrapper\.optimizer\.lr=0\.1 \(now 0\.3\)'),
        (dict(feature_std=0.4, effective_rank=5.0), r'partly collapsed.*much alike.*\(now 0\.3\)'),
        (dict(feature_std=0.4), None),
        (dict(effective_rank=5.0), None),
        (
            dict(feature_std=float('nan')),
            r'diverged.*optim_wrapper\.optimizer\.lr=0\.1 \(now 0\.3\)',
        ),
        (dict(view_recall=0.02), r'noise.*custom_hooks\.0\.warmup_epochs=6 \(now 3\)'),
        (dict(view_recall=0.02, neighbor_purity=0.5, chance_purity=0.1), None),
        (
            dict(neighbor_purity=0.11, chance_purity=0.1),
            r'noise.*11 % of them.*custom_hooks\.0\.warmup_epochs=6 \(now 3\)',
        ),
    ],
    ids=str,
)
def test_the_verdict_says_what_is_wrong_and_what_to_change(values, said):
    problems, verdict = judge([HEALTHY | values] * 20, config())
    assert bool(problems) == (said is not None)
    states = [state for _, _, state, _ in verdict]
    assert ('bad' in states) == bool(problems)
    if said:
        assert re.search(said, problems[0])


def test_a_log_without_health_is_not_called_healthy():
    (problem,), _ = judge([dict(step=1, loss=5.0)], config())
    assert 'no health' in problem


@pytest.mark.parametrize(
    ('steps', 'said'), [(20, 'Too early to tell, after 20 steps'), (2000, 'Nothing is wrong: ')]
)
def test_a_short_run_is_not_called_healthy(tmp_path, steps, said):
    lines = [HEALTHY, HEALTHY | dict(step=steps)]
    page = write_report(tmp_path / 'page.html', config(), lines, dict(backbone='ResNet 18'), {})
    (verdict,) = re.findall('<strong>(.*?)</strong>', page.read_text())
    assert verdict.startswith(said)


@pytest.mark.parametrize(
    ('title', 'value', 'ends'),
    [('Own older features', dict(self_in_set=0.0), '01'), ('Loss', dict(loss=4.0), '04')],
)
def test_a_constant_curve_has_an_axis_from_zero(tmp_path, title, value, ends):
    lines = [HEALTHY | dict(step=step) | value for step in (1, 2)]
    page = write_report(tmp_path / 'page.html', config(), lines, dict(backbone='ResNet 18'), {})
    chart = page.read_text().partition(f'aria-label="{title}"')[2].partition('</svg>')[0]
    ticks = re.findall('text-anchor="end">(.*?)<', chart)
    assert ticks[0] + ticks[-1] == ends


def test_the_verdict_is_about_the_end_of_the_run():
    assert judge([HEALTHY | dict(feature_std=0.01)] * 18 + [HEALTHY] * 2, config())[0] == []
