"""A study says in a sentence what its figures allow to be said."""

import csv
from io import StringIO

import pytest

from mmsnclr.evaluation.study import Difference, Point
from mmsnclr.visualization.study_summary import points_csv, study_table, verdicts

YES, NO, OPEN = (1.0, 3.0), (-3.0, -1.0), (-1.0, 3.0)


def study(*over_seeds, seeds=3):
    """Points of two starts, with these intervals over seeds at rising numbers of images."""
    points = []
    for number, interval in enumerate(over_seeds, 1):
        images = 100 * number**2
        values = dict.fromkeys(range(seeds), 10.0)
        deviation = 0.5 if seeds > 1 else None
        alone = Point('box AP', 'mine', images / 100, images, values, 10.0, deviation, YES, None)
        mean = (interval[0] + interval[1]) / 2
        difference = Difference(
            mean + 0.1 * number, seeds, interval if seeds > 1 else None, NO if mean < 0 else YES
        )
        points += [alone, alone._replace(start='other', mean=9.0, difference=difference)]
    return points


@pytest.mark.parametrize(
    ('intervals', 'told'),
    [
        ([YES, YES, OPEN], 'helps from 100 to 400; cannot be told at 900'),
        ([YES], 'helps at 100'),
        ([OPEN, NO, YES], 'cannot be told at 100; harms at 400; helps at 900'),
    ],
)
def test_it_helps_or_harms_here_and_cannot_be_told_there(intervals, told):
    (verdict,) = verdicts(study(*intervals), 'box AP')
    assert verdict == (
        f'Mine instead of other, box AP by number of labelled images: {told} (3 seeds).'
    )


def test_it_cannot_be_told_anywhere():
    (verdict,) = verdicts(study(OPEN, OPEN), 'box AP')
    assert verdict == (
        'Whether mine is better than other by box AP cannot be told with 3 seeds, at 100 to 400 '
        'labelled images: nowhere do both intervals of the difference exclude 0.'
    )


def test_an_interrupted_study_tells_what_its_finished_parts_allow():
    points = study(YES) + study(OPEN, OPEN, seeds=1)[2:]
    (verdict,) = verdicts(points, 'box AP')
    assert 'helps at 100; cannot be told at 400 (1 to 3 seeds).' in verdict
    *_, three, _, one, _ = study_table(points, 'box AP').splitlines()
    assert 'seeds' not in three and '(1 of 3 seeds)' in one


def test_one_seed_tells_nothing_and_has_no_figure_without_a_spread():
    points = study(YES, YES, seeds=1)
    assert 'cannot be told: one seed says nothing' in verdicts(points, 'box AP')[0]
    table = study_table(points, 'box AP')
    assert '| 100 (1 %) | mine | 10.0 [1.0, 3.0] |  |  |' in table
    assert '|  | other | 9.0 [1.0, 3.0] | one seed | +2.1 [+1.0, +3.0] |' in table


def test_a_table_and_a_csv_have_every_figure_with_its_spread():
    points = study(YES, NO)
    table = study_table(points, 'box AP').splitlines()
    assert table[0] == (
        '| labelled images | start | box AP | mine is ahead by, over seeds | over images |'
    )
    assert table[2:4] == [
        '| 100 (1 %) | mine | 10.0 ± 0.5 |  |  |',
        '|  | other | 9.0 ± 0.5 | +2.1 [+1.0, +3.0] | +2.1 [+1.0, +3.0] |',
    ]
    rows = list(csv.DictReader(StringIO(points_csv(points))))
    assert [row['start'] for row in rows] == ['mine', 'other'] * 2
    assert (rows[3]['images'], rows[3]['difference'], rows[3]['seeds_low']) == (
        '400',
        '-1.800',
        '-3.000',
    )
    assert rows[2]['difference'] == '' and rows[2]['deviation'] == '0.500'
