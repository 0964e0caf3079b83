"""The documentation builds, and refers to nothing that is not there."""

import runpy

import pytest
import torch
from helpers import ROOT


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    from sphinx.cmd.build import build_main

    folder = tmp_path_factory.mktemp('site')
    extensions = runpy.run_path(str(ROOT / 'docs/conf.py'))['extensions']
    extensions.remove('sphinx.ext.viewcode')  # pages of source, at which nothing here looks
    threads = torch.get_num_threads()
    arguments = [
        '-W',
        '--keep-going',
        '-q',
        '-b',
        'html',
        '-D',
        f'extensions={",".join(extensions)}',
    ]
    arguments += [str(ROOT / 'docs'), str(folder)]
    assert build_main(arguments) == 0  # warnings are errors
    torch.set_num_threads(threads)
    return folder


def test_every_page_is_in_the_site(site):
    for page in [*(ROOT / 'docs').rglob('*.md'), *(ROOT / 'docs').rglob('*.ipynb')]:
        assert (site / page.relative_to(ROOT / 'docs')).with_suffix('.html').exists(), page


ROOMS = 'api models datasets engine checkpoints backbones evaluation recipes visualization'


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
