"""The figures of a study are those that are computed by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from mmsnclr.evaluation.classification import resample_accuracy
from mmsnclr.evaluation.coco import evaluate_coco, resample_ap
from mmsnclr.evaluation.study import Measured, compare_runs, draw_images

OURS, THEIRS = {0: 30.0, 1: 34.0, 2: 35.0}, {0: 28.0, 1: 31.0, 2: 34.0}


def runs(values, start, spread, percent=10.0):
    """Trainings whose samples of images lie evenly within a spread around the value."""
    around = np.linspace(-spread, spread, 1001)
    return {
        (start, percent, seed): {'AP': Measured(value, (value + around).tolist())}
        for seed, value in values.items()
    }


def test_mean_deviation_and_students_interval_of_paired_differences():
    both = runs(OURS, 'ours', 1.0) | runs(THEIRS, 'theirs', 3.0)
    ours, theirs = compare_runs(both, 'ours', {10.0: 75})
    assert (ours.start, ours.images, ours.mean, ours.difference) == ('ours', 75, 33.0, None)
    assert ours.deviation == pytest.approx(7**0.5)  # of -3, 1 and 2
    assert ours.over_images == pytest.approx((33 - 0.95, 33 + 0.95))
    # Differences 2, 3 and 1: mean 2, deviation 1; Student's t of two degrees is 4.303.
    difference = theirs.difference
    assert (difference.mean, difference.seeds) == (2.0, 3)
    half = 4.302653 / 3**0.5
    assert difference.over_seeds == pytest.approx((2 - half, 2 + half), abs=1e-5)
    # Sample by sample: 2 + (1 - 3) x, x from -1 to 1.
    assert difference.over_images == pytest.approx((2 - 1.9, 2 + 1.9))
    assert difference.sign == 0  # 0 is in the interval over seeds


@pytest.mark.parametrize(
    ('theirs', 'spread', 'sign'),
    [
        ({0: 20.0, 1: 23.9, 2: 25.1}, 1.0, 1),
        ({0: 20.0, 1: 23.9, 2: 25.1}, 12.0, 0),  # other images may say otherwise
        ({0: 40.0, 1: 44.1, 2: 44.9}, 1.0, -1),
        ({0: 20.0}, 1.0, 0),  # one seed
    ],
)
def test_it_is_told_only_what_both_intervals_tell(theirs, spread, sign):
    found = compare_runs(
        runs(OURS, 'ours', 0.0) | runs(theirs, 'theirs', spread), 'ours', {10.0: 75}
    )
    assert found[1].difference.sign == sign
    assert (found[1].difference.over_seeds is None) == (len(theirs) == 1)


def test_what_is_not_trained_yet_is_left_out_of_differences():
    both = runs(OURS, 'ours', 1.0) | runs({1: 30.0, 2: 31.0, 5: 90.0}, 'theirs', 1.0)
    both |= runs({0: 50.0}, 'theirs', 1.0, percent=50.0)
    _, theirs, alone = compare_runs(both, 'ours', {10.0: 75, 50.0: 375, 100.0: 750})
    assert (theirs.difference.seeds, theirs.difference.mean) == (2, 4.0)
    assert (alone.images, alone.difference, alone.deviation) == (375, None, None)


def test_images_are_drawn_with_repetition_and_always_alike():
    draws = draw_images(20)
    assert draws.shape == (1000, 20) and (draws.sum(axis=1) == 20).all()
    assert draws.max() > 3 and (draws == draw_images(20)).all()


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_resampled_precision_is_pycocotools_of_repeated_images(content, tmp_path, kind):
    pytest.importorskip('pycocotools')
    rng, found = np.random.default_rng(0), []
    for number, one in enumerate(content['annotations']):
        one['iscrowd'] = int(number % 7 == 0)
        for score in rng.random(3):
            shift = rng.normal(0, 1, 2)
            found.append(
                dict(
                    image_id=one['image_id'],
                    category_id=one['category_id'] if score > 0.3 else 1,
                    score=float(score),
                    bbox=np.add(one['bbox'], [*shift, 0, 0]).tolist(),
                    segmentation=[
                        (np.reshape(polygon, (-1, 2)) + shift).ravel().tolist()
                        for polygon in one['segmentation']
                    ],
                )
            )
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(content))
    ids = sorted(image['id'] for image in content['images'])
    draws = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), 4)
    draws[0], draws[1] = 1, 0
    draws[1, 0] = 2  # one image alone, which lacks most classes
    for times, actual in zip(draws, resample_ap(path, found, kind, draws)):
        repeated = copy.deepcopy(content) | dict(images=[], annotations=[])
        theirs = []
        for image in np.repeat(ids, times):
            new = len(repeated['images']) + 1
            repeated['images'].append(dict(id=new, width=128, height=128, file_name=''))
            for one in (a for a in content['annotations'] if a['image_id'] == image):
                number = len(repeated['annotations']) + 1
                repeated['annotations'].append(one | dict(id=number, image_id=new))
            theirs += [f | dict(image_id=new) for f in found if f['image_id'] == image]
        path.with_name('repeated.json').write_text(json.dumps(repeated))
        expected = evaluate_coco(path.with_name('repeated.json'), copy.deepcopy(theirs), kind)
        assert actual == pytest.approx([expected.ap, expected.ap50]) and expected.ap > 0
    nothing = resample_ap(path, [], kind, draws)
    assert (nothing == 0).all()


def test_resampled_accuracy_is_that_of_repeated_images():
    labels, classes = torch.tensor([1, 0, 0, 2, 1, 0]), torch.tensor([0, 0, 1, 2, 1, 0])
    draws = np.array([[1] * 6, [2, 0, 1, 0, 3, 0]])
    for times, actual in zip(draws, resample_accuracy(classes == labels, labels, draws)):
        truth, found = (np.repeat(values.numpy(), times) for values in (labels, classes))
        expected = [(truth == found).mean(), balanced_accuracy_score(truth, found)]
        assert actual == pytest.approx(100 * np.array(expected))
