"""What a config says of optimiser and schedule, against what a checkpoint was saved with."""

import copy
import warnings
from collections.abc import Set

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from .param_groups import group_of_each

# How far a scheduler is; all else of its state are settings.
_PROGRESS = {
    *('last_step', '_global_step', '_last_value', 'verbose', 'base_values'),
    *('best', 'num_bad_epochs', 'cooldown_counter'),
}
# How the same numbers are computed, which differs between machines and versions of torch.
_IMPLEMENTATION = {'params', 'foreach', 'fused', 'capturable', 'differentiable'}
# Settings for which an optimiser keeps values from its first step on.
_WITH_STATE = {'amsgrad', 'centered', 'momentum'}
# What a scheduler keeps for each group.
_OF_GROUPS = {'base_values', '_last_value', 'min_values'}
_SCALER = ('growth_factor', 'backoff_factor', 'growth_interval')


class Schedule:
    """Settings of an optimiser and its schedulers as the config has them, before the first step.

    mmengine takes all of them from the checkpoint on resuming, so that a config
    that was edited meanwhile would count for nothing.

    Args:
        wrapper: The optimiser, no step taken.
        schedulers: Its schedulers.
    """

    def __init__(
        self, wrapper: OptimWrapper | OptimWrapperDict, schedulers: list[_ParamScheduler] | None
    ) -> None:
        # Several optimisers, which no method here has, go on as mmengine does it.
        self._known = not isinstance(wrapper, OptimWrapperDict)
        self._optimizer = wrapper.state_dict() if self._known else {}
        if 'base_param_settings' in self._optimizer:
            self._optimizer['base_param_settings'] = dict(wrapper.base_param_settings)
        states = [scheduler.state_dict() for scheduler in schedulers or ()] if self._known else []
        self._states = copy.deepcopy(states)
        scaler = getattr(wrapper, 'loss_scaler', None)
        self._scaler = {} if scaler is None else _scaler_settings(scaler.state_dict())

    def changes_since(self, path: str, saved: dict) -> list[str]:
        """How the config differs from what a checkpoint was saved with.

        Args:
            path: The checkpoint, for the message.
            saved: What it holds.

        Returns:
            A text for each setting, with both values.

        Raises:
            ValueError: If the optimiser cannot go on with the config's.
        """
        if not self._known:
            return []
        optimizer, there = saved['optimizer'], saved.get('param_schedulers') or []
        scheduled = {state['param_name'] for state in [*self._states, *there]}
        found = self._group_changes(path, optimizer, scheduled | _IMPLEMENTATION)
        scaler = _differences(_scaler_settings(optimizer.get('loss_scaler', {})), self._scaler)
        found |= {f'loss_scale.{name}': values for name, values in scaler.items()}
        if len(there) != len(self._states):
            found['the number of param_scheduler'] = len(there), len(self._states)
        there = [state | self._of_groups(state, optimizer) for state in there]
        for number, states in enumerate(zip(there, self._states)):
            settings = _differences(*states, but=_PROGRESS)
            found |= {f'param_scheduler.{number}.{name}': v for name, v in settings.items()}
        return [f'{name} was {was}, is {value}' for name, (was, value) in found.items()]

    def _group_changes(
        self, path: str, optimizer: dict, but: set[str]
    ) -> dict[str, tuple[object, object]]:
        """Both values of what is otherwise for a parameter, the first for each name."""
        there, here = (_of_each_parameter(x) for x in (optimizer, self._optimizer))
        if len(there) != len(here):
            raise ValueError(
                f'cannot resume from {path}: its optimiser has {len(there)} parameters in '
                f'{len(optimizer["param_groups"])} groups, the config makes {len(here)} in '
                f'{len(self._optimizer["param_groups"])}; leave optim_wrapper.paramwise_cfg as it '
                'was'
            )
        found: dict[str, tuple] = {}
        for before, now in zip(there, here):
            for name, values in _differences(before, now, but).items():
                found.setdefault(f'optimizer.{name.removeprefix("initial_")}', values)
        for name in _WITH_STATE:
            was, value = found.get(f'optimizer.{name}', (True, None))
            if not was:
                raise ValueError(
                    f'cannot resume from {path}: optimizer.{name} was {was}, the config says '
                    f'{value}, for which the optimiser has kept nothing; leave it as it was'
                )
        return found

    def regroup(self, optimizer: dict, schedulers: list[_ParamScheduler] | None) -> None:
        """Have resumed schedulers keep a value for each group that there is now.

        Args:
            optimizer: What the checkpoint holds of the optimiser, whose groups may be others.
            schedulers: What was resumed from it.
        """
        for scheduler in (schedulers or []) if self._known else []:
            vars(scheduler).update(self._of_groups(vars(scheduler), optimizer))

    def _of_groups(self, state: dict, optimizer: dict) -> dict[str, list]:
        """What a scheduler's state has for each group of a checkpoint, for the groups of now."""
        position = group_of_each(optimizer['param_groups'])
        first = [position[group['params'][0]] for group in self._optimizer['param_groups']]
        first += [-1] * ('base_param_settings' in self._optimizer)
        return {name: [state[name][i] for i in first] for name in _OF_GROUPS & state.keys()}

    def check_end(self, path: str, planned: int, end: int, epoch_length: int | None) -> None:
        """Check that a schedule which went on to the end of a run still does.

        Args:
            path: The checkpoint, for the message.
            planned: Iterations that the run was to have; 0 if that is not known.
            end: Iterations that it is to have now.
            epoch_length: Iterations of an epoch; ``None`` where there are no epochs.

        Raises:
            ValueError: If it stops where the run was to end before.
        """
        units = [epoch_length or end if state['by_epoch'] else 1 for state in self._states]
        last = max((state['end'] * unit for state, unit in zip(self._states, units)), default=end)
        if 0 < planned <= last < end:
            raise ValueError(
                f'cannot resume from {path}: param_scheduler ends with iteration {last}, the '
                f'training now with {end}, and the rate would stay at its last value; set '
                "param_scheduler's end and T_max as well, or add a ConstantLR with factor=1.0"
            )

    def go_to(
        self,
        iteration: int,
        epoch_length: int | None,
        wrapper: OptimWrapper,
        schedulers: list[_ParamScheduler] | None,
    ) -> None:
        """Set optimiser and schedulers to what the config gives at an iteration.

        Args:
            iteration: How many were trained.
            epoch_length: Iterations of an epoch; ``None`` where there are no epochs.
            wrapper: The optimiser; its state is left as it is.
            schedulers: Its schedulers.

        Raises:
            ValueError: If a scheduler goes by measurements.
        """
        for group, start in zip(wrapper.param_groups, _groups(self._optimizer)):
            group.update((key, value) for key, value in start.items() if key != 'params')
        if self._scaler:
            wrapper.loss_scaler.load_state_dict(wrapper.loss_scaler.state_dict() | self._scaler)
        for number, (scheduler, state) in enumerate(zip(schedulers or [], self._states)):
            if 'rule_worse' in state:
                raise ValueError(
                    f'param_scheduler.{number} goes by what was measured, which cannot be repeated '
                    'by another config: resume with the config of the run'
                )
            scheduler.__dict__ = {'optimizer': scheduler.optimizer, **copy.deepcopy(state)}
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # there is no optimiser's step between
            for done in range(1, iteration + 1):
                for scheduler in schedulers or []:
                    if not scheduler.by_epoch or (epoch_length and done % epoch_length == 0):
                        scheduler.step()


def _groups(optimizer: dict) -> list[dict]:
    """All groups of an optimiser's state, that of mmengine's base settings included."""
    base = optimizer.get('base_param_settings')
    return [*optimizer['param_groups'], *([] if base is None else [base])]


def _of_each_parameter(optimizer: dict) -> list[dict]:
    """The settings of each parameter in an optimiser's state, and mmengine's base settings."""
    groups = _groups(optimizer)
    position = group_of_each(optimizer['param_groups'])
    return [groups[position[number]] for number in sorted(position)] + groups[
        len(optimizer['param_groups']) :
    ]


def _scaler_settings(state: dict) -> dict:
    return {name: state[name] for name in _SCALER if name in state}


def _differences(
    before: dict, now: dict, but: Set[str] = frozenset()
) -> dict[str, tuple[object, object]]:
    """Both values of what two dictionaries have otherwise."""
    return {
        name: (before[name], value)
        for name, value in now.items()
        if name in before and name not in but and not callable(value) and before[name] != value
    }
