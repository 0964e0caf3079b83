"""The words by which folders tell the parts of a set."""

_WORDS = dict(
    train={'train', 'training'},
    val={'val', 'valid', 'validation', 'dev', 'eval', 'holdout'},
    test={'test', 'testing'},
)


def part_named(folder: str) -> str | None:
    """The part that a folder holds by its name: ``'train'``, ``'val'``, ``'test'`` or ``None``."""
    return next((part for part, words in _WORDS.items() if folder.lower() in words), None)
