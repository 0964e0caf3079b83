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
