"""The documentation builds, and refers to nothing that is not there."""

import pytest
import torch
from helpers import ROOT

import mmsnclr.api


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
    for page in (ROOT / 'docs').rglob('*.md'):
        assert (site / page.relative_to(ROOT / 'docs')).with_suffix('.html').exists(), page


def test_every_verb_is_in_the_reference(site):
    verbs = (site / 'api/verbs.html').read_text()
    for name in mmsnclr.api.__all__:
        function = getattr(mmsnclr.api, name)
        reference = f'{function.__module__}.{function.__name__}'
        pages = [verbs, (site / 'api/files.html').read_text()]
        assert any(f'id="{reference}"' in page for page in pages), reference


def test_it_is_read_without_a_network(site):
    for page in site.rglob('*.html'):
        text = page.read_text()
        assert (
            'src="http' not in text
            and '<link rel="stylesheet" type="text/css" href="http' not in text
        )
