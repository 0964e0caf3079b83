import pytest

from mmsnclr.console import parse_time


def test_durations_are_read():
    assert [parse_time(text) for text in ('45s', '30m', '1h30m', '2d')] == [45, 1800, 5400, 172800]
    for text in ('half an hour', '0m', '', '30', '1h 30m'):
        with pytest.raises(ValueError, match=f"time='{text}' is no duration"):
            parse_time(text)
