"""Positiveness (Eq. 4) and the soft-neighbour contrastive loss (Eq. 2).

Pure functions of normalised tensors; equation numbers are those of SNCLR
(Soft Neighbors are Positive Supporters in Contrastive Visual Representation
Learning, ICLR 2023).
"""

from typing import NamedTuple

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .precision import exact_float32, products

# Stands for log(0): exp() of it is exactly 0 in float32, yet every gradient
# that passes through it stays finite.
MASKED = -1e9
# Rows that are compared at once; bound the memory of the loss. They fit into a CPU's cache; a GPU
# takes four times as many, as it would wait for the host to launch more and smaller operators.
_CHUNK = 8192
_NEIGHBORS_AT_ONCE = 16
# Share of a log-sum-exp, as a logarithm, that no precision can tell from 0.
_NEGLIGIBLE = -80.0
FORMS = ('log_sum', 'sum_log')
NEIGHBORS_IN = ('both', 'positives', 'negatives')


class Candidates(NamedTuple):
    """Neighbours of the whole global batch, without repetition.

    Attributes:
        rows: Features that may have been picked, ``(C, D)``, L2-normalised.
        counts: How many instances of the global batch picked each, ``(C,)``;
            ``None`` where only one's own neighbours are looked at.
        own: Positions in ``rows`` of this rank's neighbours, ``(N, K)``.
        valid: ``False`` where a neighbour is missing, ``(N, K)``.
    """

    rows: Tensor
    counts: Tensor | None
    own: Tensor
    valid: Tensor


def neighbor_scores(query: Tensor, candidates: Candidates) -> Tensor:
    """Products of each instance with its own neighbours, ``query . NN(y2)_i``.

    Of ``query``, ``(N, D)``, and ``candidates.rows`` at ``candidates.own``; ``(N, K)``.
    """
    return _NeighborScores.apply(query, candidates.rows, candidates.own)


def log_positiveness(
    scores: Tensor, valid: Tensor, log_gamma: Tensor, temperature: float = 1.0
) -> Tensor:
    """Logarithm of the positiveness of each neighbour (Eq. 4).

    ``w_i = 1 / gamma_i * softmax_i(y1 . NN(y2)_i / T)``, the softmax running over
    the K neighbours; Eq. 4 has no ``T``.

    Args:
        scores: ``y1 . NN(y2)_i``, from the online projections ``y1``, ``(N, K)``.
        valid: ``False`` for neighbours that are missing, ``(N, K)``.
        log_gamma: ``log(gamma)``, a scalar or ``(K,)``.
        temperature: ``T``; the lower, the more the nearest count.

    Returns:
        ``log(w)``, ``(N, K)``; ``MASKED`` for missing neighbours.
    """
    attention = (scores / temperature).masked_fill(~valid, MASKED).log_softmax(dim=1)
    return (attention - log_gamma).masked_fill(~valid, MASKED)


def snclr_loss(
    prediction: Tensor,
    keys: Tensor,
    own_key: Tensor,
    temperature: float,
    candidates: Candidates | None = None,
    log_weights: Tensor | None = None,
    form: str = 'log_sum',
    neighbors_in: str = 'both',
) -> Tensor:
    r"""Soft-neighbour contrastive loss of one view order.

    With ``e(k) = exp(z1 . k / t)``, ``NN(y)_0 = y`` and ``w_0 = 1``, the two
    forms are, averaged over the N instances,

    - ``'log_sum'`` (Eq. 2): ``-log( sum_{i=0..K} w_i e(NN(y2)_i) / S )``
    - ``'sum_log'`` (the authors' released code):
      ``-sum_{i=0..K} w_i log( e(NN(y2)_i) / S )``

    and the sum ``S`` depends on ``neighbors_in`` (table 7):

    - ``'both'`` (Eq. 2): every instance brings its key and its neighbours,
      ``S = sum_{i=0..K} e(NN(y2)_i) + sum_{j other} sum_{k=0..K} e(NN(y2_j)_k)``
    - ``'positives'``: the other instances bring their key only,
      ``S = sum_{i=0..K} e(NN(y2)_i) + sum_{j other} e(y2_j)``
    - ``'negatives'``: one's own neighbours are dropped from both sums,
      ``S = e(y2) + sum_{j other} sum_{k=0..K} e(NN(y2_j)_k)``, and the sum over
      positives keeps ``i = 0`` alone.

    Without ``candidates`` every form is Eq. 2 with K = 0: Eq. 1 with the
    prediction ``z1`` in the place of ``y1``.

    A candidate that ``c`` instances picked enters ``S`` once, as
    ``exp(z1 . k / t + log c)``. This is exact, the cost does not grow with K,
    and between ranks only keys and counts need to travel.

    Args:
        prediction: Predictor outputs ``z1``, ``(N, D)``.
        keys: Momentum projections ``y2`` of the global batch, ``(M, D)``.
        own_key: Position in ``keys`` of each instance's own key, ``(N,)``.
        temperature: ``t``.
        candidates: The global batch's neighbours; ``None`` leaves them out.
        log_weights: ``log(w)`` of the own neighbours, ``(N, K)``; not needed
            for ``'negatives'``.
        form: ``'log_sum'`` or ``'sum_log'``.
        neighbors_in: ``'both'``, ``'positives'`` or ``'negatives'``.

    Returns:
        Mean over the N instances, a scalar.
    """
    key_logits = products(prediction, keys.to(prediction)) / temperature
    own_logit = key_logits.gather(1, own_key[:, None])
    normalizer = key_logits.logsumexp(dim=1)
    if candidates is None:
        return (normalizer - own_logit.squeeze(1)).mean()

    if neighbors_in == 'positives':
        neighbor_logits = neighbor_scores(prediction, candidates) / temperature
        visible = neighbor_logits.masked_fill(~candidates.valid, MASKED)
        normalizer = torch.logaddexp(normalizer, visible.logsumexp(dim=1))
    else:
        assert candidates.counts is not None
        log_counts = candidates.counts.clamp(min=1).to(prediction).log()
        log_counts = log_counts.masked_fill(candidates.counts == 0, MASKED)
        without_own = _without_own(candidates, prediction) if neighbors_in == 'negatives' else ()
        others = log_sum_exp(prediction, candidates.rows, temperature, log_counts, *without_own)
        normalizer = torch.logaddexp(normalizer, others)
    if neighbors_in == 'negatives':
        return (normalizer - own_logit.squeeze(1)).mean()
    if neighbors_in == 'both':
        neighbor_logits = neighbor_scores(prediction, candidates) / temperature

    assert log_weights is not None
    logits = torch.cat([own_logit, neighbor_logits], dim=1)
    log_weights = torch.cat([torch.zeros_like(own_logit), log_weights], dim=1)
    if form == 'log_sum':
        return (normalizer - (log_weights + logits).logsumexp(dim=1)).mean()
    return (log_weights.exp() * (normalizer[:, None] - logits)).sum(dim=1).mean()


def _without_own(candidates: Candidates, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Per-row change of the log-counts that takes one's own picks out."""
    assert candidates.counts is not None
    count = candidates.counts[candidates.own].to(prediction)
    left = (count - 1).clamp(min=1).log() - count.clamp(min=1).log()
    left = left.masked_fill(count <= 1, MASKED)
    return candidates.own, left.masked_fill(~candidates.valid, 0.0)


class _NeighborScores(torch.autograd.Function):
    """``z_n . r_own(n,k)``, some neighbours at a time, keeping none for the gradient."""

    @staticmethod
    def forward(ctx, z, rows, own):
        ctx.save_for_backward(rows, own)
        parts = own.split(_NEIGHBORS_AT_ONCE, dim=1)
        return torch.cat([torch.einsum('nd,nkd->nk', z, rows[p].to(z)) for p in parts], dim=1)

    @staticmethod
    def backward(ctx, grad_output):
        rows, own = ctx.saved_tensors
        gradient = grad_output.new_zeros(len(own), rows.size(1))
        parts = (x.split(_NEIGHBORS_AT_ONCE, dim=1) for x in (own, grad_output))
        with exact_float32(grad_output.device):
            for part, weight in zip(*parts):
                gradient += torch.einsum('nk,nkd->nd', weight, rows[part].to(gradient))
        return gradient, None, None


@torch.no_grad()
def streaming_softmax(
    z: Tensor,
    rows: Tensor,
    temperature: float,
    log_counts: Tensor | None = None,
    own: Tensor | None = None,
    own_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over the rows, and their softmax-weighted mean, in one pass.

    Chunk after chunk, so that no more logits exist than those of a chunk.

    Args:
        z: ``(N, D)``.
        rows: ``(C, D)``.
        temperature: ``t``.
        log_counts: Added to the logits of each row, ``(C,)``.
        own: Positions of rows, ``(N, K)``, whose logits ``own_bias`` changes.
        own_bias: Added to the logits of ``own``, ``(N, K)``.

    Returns:
        ``log sum_c exp(z . r_c / t + bias_c)``, ``(N,)``, and the mean of the
        rows under the softmax of the same logits, ``(N, D)``, which is ``t``
        times the gradient of the former.
    """
    query = (z / temperature).T.contiguous()
    peak = z.new_full((len(z),), MASKED)
    total = torch.zeros_like(peak)
    weighted = torch.zeros_like(z)
    chunk = _CHUNK if z.device.type == 'cpu' else 4 * _CHUNK
    buffer = z.new_empty(min(chunk, len(rows)), len(z))
    cast = None if rows.dtype == z.dtype else z.new_empty(len(buffer), rows.size(1))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        if cast is not None:
            part = cast[: len(part)].copy_(part)
        logits = buffer[: len(part)]
        torch.mm(part, query, out=logits)
        if log_counts is not None:
            logits += log_counts[start : start + len(part), None]
        if own is not None and own_bias is not None:
            inside = (own >= start) & (own < start + len(part))
            position = (own - start).clamp(0, len(part) - 1)
            logits.scatter_add_(0, position.T, (own_bias * inside).T)
        new_peak = torch.maximum(peak, logits.amax(dim=0))
        # exp() is many times slower where it underflows.
        weights = logits.sub_(new_peak).clamp_(min=_NEGLIGIBLE).exp_()
        decay = (peak - new_peak).exp_()
        total.mul_(decay).add_(weights.sum(dim=0))
        weighted.mul_(decay[:, None]).addmm_(weights.T, part)
        peak = new_peak
    return peak + total.log(), weighted.div_(total[:, None])


def log_sum_exp(z: Tensor, rows: Tensor, temperature: float, *biases: Tensor | None) -> Tensor:
    """The first result of :func:`streaming_softmax`, with its gradient for ``z``."""
    return _LogSumExp.apply(z, rows, temperature, *biases)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, rows, temperature, *biases):
        value, mean = streaming_softmax(z, rows, temperature, *biases)
        ctx.save_for_backward(mean.div_(temperature))
        return value

    @staticmethod
    def backward(ctx, grad_output):
        (gradient,) = ctx.saved_tensors
        return grad_output[:, None] * gradient, *(None for _ in ctx.needs_input_grad[1:])


@MODELS.register_module()
class SNCLRLoss(nn.Module):
    """Soft-neighbour contrastive loss as a module; see :func:`snclr_loss`.

    Computed in full float32, also under autocast and where TF32 is allowed.

    Args:
        temperature: ``t``. The paper leaves it open; 0.2 is that of the
            released code's launch files, all for ViT, and its default is 1.
        form: ``'log_sum'``, the paper's Eq. 2 and the default, or
            ``'sum_log'``, the released code's soft cross-entropy (which that
            code multiplies by ``2 t``: set ``loss_weight``).
        neighbors_in: ``'both'`` (default), ``'positives'`` or ``'negatives'``.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: If an argument is not one of those named above.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        form: str = 'log_sum',
        neighbors_in: str = 'both',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f'loss.temperature={temperature} must be positive')
        if form not in FORMS:
            raise ValueError(f'loss.form={form!r} must be one of {FORMS}')
        if neighbors_in not in NEIGHBORS_IN:
            raise ValueError(f'loss.neighbors_in={neighbors_in!r} must be one of {NEIGHBORS_IN}')
        self.temperature = temperature
        self.form = form
        self.neighbors_in = neighbors_in
        self.loss_weight = loss_weight

    def forward(
        self,
        prediction: Tensor,
        keys: Tensor,
        own_key: Tensor,
        candidates: Candidates | None = None,
        log_weights: Tensor | None = None,
    ) -> Tensor:
        """Weighted :func:`snclr_loss`, with this module's settings."""
        with exact_float32(prediction.device):
            loss = snclr_loss(
                prediction,
                keys,
                own_key,
                self.temperature,
                candidates,
                log_weights,
                self.form,
                self.neighbors_in,
            )
        return self.loss_weight * loss

    def extra_repr(self) -> str:
        """Show the settings in the printed model."""
        return (
            f'temperature={self.temperature}, form={self.form!r}, '
            f'neighbors_in={self.neighbors_in!r}, loss_weight={self.loss_weight}'
        )
