"""SCE: the paper's equations, and its settings."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.nn import functional as F

from mmsnclr.models import sce_loss


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def sce_by_hand(z, key, rows, t, t_m, contrast):
    """The equations of arXiv 2111.14585, one term after the other."""
    total = 0.0
    for n in range(len(z)):
        target = [torch.exp(key[n] @ row / t_m) for row in rows]
        weights = [contrast, *((1 - contrast) * s / sum(target) for s in target)]
        scores = [torch.exp(z[n] @ k / t) for k in (key[n], *rows)]
        total = total - sum(w * torch.log(e / sum(scores)) for w, e in zip(weights, scores))
    return total / len(z)


@pytest.mark.parametrize('contrast', [0.0, 0.5, 1.0])
@pytest.mark.parametrize(('t', 't_m'), [(0.1, 0.05), (1.0, 0.07)])
def test_sce_loss_and_gradient_equal_the_papers_equations(contrast, t, t_m):
    key, rows = unit(4, 5, seed=1), unit(7, 5, seed=2)
    results = []
    for loss in (sce_loss, sce_by_hand):
        z = unit(4, 5, seed=0).requires_grad_()
        value = loss(z, key, rows, t, t_m, contrast)
        value.backward()
        results.append((value.detach(), z.grad))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    'setting', [dict(temperature=0.0), dict(target_temperature=-1.0), dict(contrast=1.5)]
)
def test_settings_of_sce_out_of_their_domain_are_named(setting):
    with pytest.raises(ValueError, match=f'head.{next(iter(setting))}'):
        MODELS.build(dict(type='SCEHead', **setting))
