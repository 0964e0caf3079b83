"""Lines of the log that fit a screen."""

import re
from typing import Any

from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor, Runner

# A name and its value, up to the next; that of `eta` may have blanks.
_VALUE = re.compile(r'(\S+): .*?(?= \S+: |$)')


@LOG_PROCESSORS.register_module()
class EssentialLogProcessor(LogProcessor):
    """mmengine's LogProcessor, whose lines of the training show few of the values.

    ``vis_data/scalars.json`` and the visualizer's other backends have all of them.

    Args:
        shown: Names of the values to show.
        **kwargs: As for mmengine's LogProcessor.
    """

    def __init__(
        self,
        shown: tuple[str, ...] = ('lr', 'eta', 'time', 'loss', 'feature_std', 'view_recall'),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shown = shown

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """All values of a step, and the line."""
        values, line = super().get_log_after_iter(runner, batch_idx, mode)
        if mode == 'train':
            line = _VALUE.sub(lambda found: found[0] if found[1] in self.shown else '', line)
            line = re.sub(' {3,}', '  ', line).rstrip()
        return values, line


def longest_window(processor: LogProcessor, epoch: int) -> int | None:
    """How many values of a scalar make a logged one; ``None`` if all may, or nobody knows.

    Args:
        processor: The log processor of a run.
        epoch: Iterations of an epoch.
    """
    if type(processor) not in (LogProcessor, EssentialLogProcessor):
        return None
    windows = [processor.window_size, *(cfg.get('window_size') for cfg in processor.custom_cfg)]
    windows = [epoch if window == 'epoch' else window for window in windows]
    return max(windows) if all(isinstance(window, int) for window in windows) else None
