"""Parts of a labelled set have the classes of the whole."""

from collections import Counter

import numpy as np

from mmsnclr.datasets.subsets import stratified_order


def test_each_class_is_in_its_share_from_the_first_image_on():
    names = ['a'] * 300 + ['b'] * 150 + ['c'] * 50
    order = stratified_order([{name} for name in names], seed=0)
    assert sorted(order) == list(range(500))
    for count in (3, 10, 20, 50, 177, 400, 500):
        found = Counter(names[number] for number in order[:count])
        for name, images in Counter(names).items():
            # Every class is begun with, which takes an image at most of each other.
            assert -2 < found[name] - count * images / 500 <= 1 and found[name]


def test_a_seed_draws_other_images_the_same_again():
    classes = [{number % 3} for number in range(90)]
    first, again, other = (stratified_order(classes, seed) for seed in (0, 0, 1))
    assert first == again and set(first[:30]) != set(other[:30])


def test_images_of_several_classes_are_nearer_to_their_shares_than_by_chance():
    rng = np.random.default_rng(0)
    present = rng.random((600, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]
    present[:, 4] |= present[:, 1] & (rng.random(600) < 0.3)
    classes = [set(np.flatnonzero(row)) for row in present]
    assert any(not of_image for of_image in classes)  # some have none
    away = {'ours': [], 'chance': []}
    for seed in range(20):
        orders = dict(
            ours=stratified_order(classes, seed),
            chance=np.random.default_rng(seed).permutation(600),
        )
        for how, order in orders.items():
            for count in (30, 60, 150):
                away[how].append(np.abs(present[order[:count]].mean(0) - present.mean(0)).mean())
    assert np.mean(away['ours']) < 0.6 * np.mean(away['chance'])
