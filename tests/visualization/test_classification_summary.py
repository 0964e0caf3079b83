"""What is told of classifiers."""

import numpy as np
import torch
from scipy.stats import norm, sem

from mmsnclr.evaluation.classification import Predictions, rate
from mmsnclr.visualization.classification_summary import accuracy_table


def test_differences_are_taken_image_by_image():
    draw, labels = np.random.default_rng(0), torch.arange(40) % 2
    right = draw.random((2, 40)) < [[0.8], [0.6]]
    scores = torch.eye(2)[labels[None] ^ torch.from_numpy(~right)]
    paths = [str(number) for number in labels]
    results = [rate(Predictions(paths, labels, some), ['a', 'b']) for some in scores]
    each = 100.0 * (right[0].astype(int) - right[1])
    low, high = norm.interval(0.95, each.mean(), sem(each))
    table = accuracy_table(dict(one=results[0], other=results[1]))
    assert table.splitlines()[0].endswith('| one is ahead by |')
    assert (
        table.endswith(f'| {each.mean():+.1f} [{low:+.1f}, {high:+.1f}] |\n') and each.mean() != 0
    )
