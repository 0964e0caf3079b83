"""What all verbs have."""

import os

import pytest
from click.testing import CliRunner

from mmsnclr.cli import main
from mmsnclr.datasets.decoding import LIMIT


def said(*command):
    result = CliRunner().invoke(main, list(command), prog_name='mmsnclr')
    assert result.exit_code == 1, result.output
    return result.output


def test_messages_name_settings_as_they_are_typed(tmp_path):
    """And leave paths alone that are called like one."""
    path = str(tmp_path / 'val_json')
    common = ('detect', path, '--backbone', 'random', '--out', str(tmp_path / 'out'))
    assert '--val-images is given without --val,' in said(*common, '--val-images', path)
    assert '--size=8 must be at least 32' in said(*common, '--size', '8')
    assert "--compare='randm' is no file" in said(*common, '--compare', 'randm')
    assert f'--compare={path!r} is no file' in said(*common, '--compare', path)
    assert f'OUT={path!r} would overwrite' in said('import', path, path)
    assert "CHECKPOINTS='randm' is no file, and not 'random'" in said(
        'evaluate', 'randm', str(tmp_path), '--out', path
    )
    message = said('classify', path, '--backbone', 'randm', '--out', path)
    assert "--backbone='" in message and "is no file, and not 'random'" in message


def test_the_limit_of_pixels_is_an_option_of_all_verbs(tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT, '')
    said('--max-megapixels', '200', 'import', 'none.pth', str(tmp_path / 'ours.pth'))
    assert float(os.environ[LIMIT]) == 200
    help_text = CliRunner().invoke(main, ['--help']).output
    assert '--max-megapixels' in help_text and max(map(len, help_text.splitlines())) <= 80


@pytest.mark.parametrize('value', ['0', 'many'])
def test_a_limit_of_pixels_that_is_none_is_refused(value):
    assert CliRunner().invoke(main, ['--max-megapixels', value, 'doctor']).exit_code == 2
