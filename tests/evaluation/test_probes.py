"""Classifiers on features, each against scikit-learn or a loop."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmsnclr.datasets.labelled import draw_part
from mmsnclr.evaluation.probes import draw_shots, few_shot_classes, left_out, probe, score


@pytest.fixture(scope='module')
def images():
    """Features of three classes that overlap, their classes, and which are tested on."""
    draw = np.random.default_rng(1)
    labels = np.repeat(['cat', 'dog', 'elk'], [150, 80, 40])
    centres = dict(zip(np.unique(labels), 0.25 * draw.normal(size=(3, 60))))
    features = np.stack([centres[name] for name in labels]) + draw.normal(size=(270, 60)) + 0.3
    return features.astype(np.float32), labels, draw_part(labels, 0.2, 0)


@pytest.fixture(scope='module')
def found(images):
    return probe(*images)


def test_every_classifier_is_there_with_its_draws(found):
    assert {name: right.shape for name, right in found.items()} == {
        **dict.fromkeys(('k-NN 20', 'k-NN 200', 'linear'), (1, 54)),
        **dict.fromkeys(('1-shot', '5-shot', '10-shot'), (10, 54)),
    }


def test_k_nn_is_scikit_learns(images, found):
    features, labels, tested = images
    for k in (20, 200):
        weights = dict(metric='cosine', algorithm='brute', weights=lambda d: np.exp(-d / 0.07))
        model = KNeighborsClassifier(k, **weights).fit(features[~tested], labels[~tested])
        expected = model.predict(features[tested]) == labels[tested]
        assert found[f'k-NN {k}'][0].tolist() == expected.tolist()
    assert (found['k-NN 20'] != found['k-NN 200']).any()


def test_the_linear_classifier_is_what_a_grid_search_finds(images, found):
    features, labels, tested = images
    held_out = draw_part(labels[~tested], 0.2, 0)
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {'logisticregression__C': 10.0 ** np.arange(-4, 3)},
        cv=PredefinedSplit(np.where(held_out, 0, -1)),
    )
    model.fit(features[~tested], labels[~tested])
    expected = model.predict(features[tested]) == labels[tested]
    assert found['linear'][0].tolist() == expected.tolist()
    scores = model.cv_results_['mean_test_score']  # the strength matters here
    assert 0 < scores.argmax() < 6 and scores.max() > scores[-1]


@pytest.mark.parametrize('shots', [1, 5, 10])
def test_few_shot_classes_are_those_of_the_nearest_mean(images, found, shots):
    features, labels, tested = images
    learned, known = features[~tested].astype(float), labels[~tested]
    for draw, right in enumerate(found[f'{shots}-shot']):
        chosen = draw_shots(known, shots, draw)
        means = {}
        for name, numbers in zip(np.unique(known), chosen):
            assert set(known[numbers]) == {name} and len(set(numbers)) == shots
            total = sum(learned[n] / np.linalg.norm(learned[n]) for n in numbers)
            means[name] = total / np.linalg.norm(total)
        predicted = [max(means, key=lambda name: x @ means[name]) for x in features[tested]]
        assert right.tolist() == (np.array(predicted) == labels[tested]).tolist()


def test_draws_are_nested_differ_and_follow_the_seed(images):
    labels = images[1]
    many = [draw_shots(labels, 10, draw) for draw in range(10)]
    assert all((draw_shots(labels, 5, n) == many[n][:, :5]).all() for n in range(10))
    assert len({chosen.tobytes() for chosen in many}) == 10
    assert (draw_shots(labels, 10, 0, seed=1) != many[0]).any()
    assert len(few_shot_classes(*images[:2], images[0], 1)) == 10


def test_what_there_are_too_few_images_for_is_left_out_and_said(images):
    features, labels, tested = images
    some = np.r_[0:90, 150:157, 230:250]
    tested = tested.copy()
    tested[150:157] = [True, *[False] * 6]
    found = probe(features[some], labels[some], tested[some])
    assert set(found) == {'k-NN 20', 'linear', '1-shot', '5-shot'}
    learned = int((~tested[some]).sum())
    assert left_out(labels[some], tested[some]) == [
        f'k-NN 200 is left out: only {learned} images are learned from',
        '10-shot is left out: class dog has 6 to learn from',
    ]


def test_one_image_of_each_class_is_enough():
    features = np.eye(4, dtype=np.float32)[[0, 1, 0, 1]]
    found = probe(features, np.array(['a', 'b', 'a', 'b']), np.array([False, False, True, True]))
    assert {name: right.mean() for name, right in found.items()} == {'linear': 1, '1-shot': 1}


@pytest.mark.parametrize('right, count', [(0, 7), (41, 54), (54, 54)])
def test_the_interval_is_wilsons(right, count):
    found = score((np.arange(count) < right)[None])
    expected = stats.binomtest(right, count).proportion_ci(method='wilson')
    assert found.accuracy == pytest.approx(100 * right / count) and found.deviation is None
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_draws_have_a_deviation_and_differences_are_taken_image_by_image(found):
    one, other = found['1-shot'], found['5-shot']
    measured = score(one, first=other)
    assert measured.accuracy == pytest.approx(100 * one.mean())
    assert measured.deviation == pytest.approx(100 * np.std(one.mean(axis=1), ddof=1))
    each = 100 * (other.mean(axis=0) - one.mean(axis=0))
    interval = stats.norm.interval(0.95, each.mean(), stats.sem(each))
    assert measured.difference == pytest.approx((each.mean(), *interval), rel=1e-5)
    assert score(np.array([[False]]), np.array([[True]])).difference == (100, -np.inf, np.inf)
