"""The classifier on a backbone, as a checkpoint of mmpretrain has it."""

from typing import NamedTuple

from torch import nn

from ..checkpoints import Stored


class Classifier(NamedTuple):
    """What tells classes by a backbone's representation.

    Attributes:
        layer: From representations to logits.
        classes: Names of the classes.
    """

    layer: nn.Linear
    classes: list[str]


def read_classifier(stored: Stored) -> Classifier | None:
    """The linear classifier in a checkpoint of an ``ImageClassifier``; ``None`` of another."""
    model = (stored.config or {}).get('model') or {}
    classes = stored.meta.get('dataset_meta', {}).get('classes')
    weight, bias = (stored.weights.get(f'head.fc.{name}') for name in ('weight', 'bias'))
    if model.get('type') != 'ImageClassifier' or not classes or weight is None or bias is None:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict(dict(weight=weight, bias=bias))
    return Classifier(layer, list(classes))
