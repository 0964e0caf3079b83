"""Optimisers whose parameters of equal settings are one group."""

from typing import Any

import mmengine.optim
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from torch.optim import Optimizer


def build_optim_wrapper(model: nn.Module, cfg: Config) -> OptimWrapper:
    """Build an optimiser as mmengine does, its groups merged by :func:`merge_groups`."""
    return merge_groups(mmengine.optim.build_optim_wrapper(model, cfg))


def merge_groups(wrapper: OptimWrapper) -> OptimWrapper:
    """Make groups of equal settings one, in the order in which they first come.

    For ``paramwise_cfg`` mmengine makes a group of each tensor, and an optimiser
    takes as many steps. What is saved numbers parameters as mmengine built them,
    so that it can be loaded whatever the groups then and now are.

    Args:
        wrapper: An optimiser that mmengine has built, no step taken.

    Returns:
        The same; several optimisers are left as they are.
    """
    optimizer: Any = getattr(wrapper, 'optimizer', None)
    # Torch's ZeroRedundancyOptimizer, for one, keeps groups and numbers of its own.
    own = getattr(type(optimizer), 'state_dict', None) != Optimizer.state_dict
    if isinstance(wrapper, OptimWrapperDict) or own:
        return wrapper
    merged: list[dict] = []
    numbers: list[list[int]] = []
    count = 0
    for group in optimizer.param_groups:
        size = len(group['params'])
        found = [n for n, other in enumerate(merged) if _settings(other) == _settings(group)]
        if found:
            merged[found[0]]['params'] += group['params']
        else:
            merged.append(group)
            numbers.append([])
        numbers[found[0] if found else -1] += range(count, count + size)
        count += size
    optimizer.param_groups[:] = merged
    optimizer.register_state_dict_post_hook(lambda _, state: _as_built(state, numbers))
    optimizer.register_load_state_dict_pre_hook(lambda _, state: _as_merged(state, numbers))
    return wrapper


def group_of_each(groups: list[dict]) -> dict[int, int]:
    """The position of each parameter's group, by its number in what an optimiser saved."""
    return {number: i for i, group in enumerate(groups) for number in group['params']}


def _settings(group: dict) -> dict:
    return {name: value for name, value in group.items() if name != 'params'}


def _as_built(state: dict, numbers: list[list[int]]) -> dict:
    """What torch saves, with each parameter's number before groups were merged."""
    number = dict(enumerate(n for group in numbers for n in group))
    groups = [
        dict(group, params=[number[i] for i in group['params']]) for group in state['param_groups']
    ]
    return dict(
        state,
        state={number[i]: value for i, value in state['state'].items()},
        param_groups=groups,
    )


def _as_merged(state: dict, numbers: list[list[int]]) -> dict:
    """What was saved, in the groups that there are now; torch refuses what does not fit."""
    groups = state['param_groups']
    position = group_of_each(groups)
    if sorted(position) != list(range(sum(map(len, numbers)))):
        return state
    return dict(
        state, param_groups=[dict(groups[position[group[0]]], params=group) for group in numbers]
    )
