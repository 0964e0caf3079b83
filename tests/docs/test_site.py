"""The documentation builds, and refers to nothing that is not there."""

import pytest
import torch
from helpers import ROOT


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    from sphinx.cmd.build import build_main

    folder = tmp_path_factory.mktemp('site')
    threads = torch.get_num_threads()
    arguments = ['-W', '--keep-going', '-q', '-b', 'html', str(ROOT / 'docs'), str(folder)]
    assert build_main(arguments) == 0  # warnings are errors
    torch.set_num_threads(threads)
    return folder


def test_every_page_is_in_the_site(site):
    for page in [*(ROOT / 'docs').rglob('*.md'), *(ROOT / 'docs').rglob('*.ipynb')]:
        assert (site / page.relative_to(ROOT / 'docs')).with_suffix('.html').exists(), page


ROOMS = 'api models datasets engine checkpoints backbones evaluation recipes'


@pytest.mark.parametrize('room', ROOMS.split())
def test_every_module_is_in_the_reference(room):
    text = ''.join(page.read_text() for page in (ROOT / 'docs/api').glob('*.md'))
    for path in (ROOT / 'mmsnclr' / room).rglob('*.py'):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        assert path.stem == '__init__' or f'automodule:: {module}\n' in text, module


def test_it_is_read_without_a_network(site):
    for page in site.rglob('*.html'):
        text = page.read_text()
        assert (
            'src="http' not in text
            and '<link rel="stylesheet" type="text/css" href="http' not in text
        )
