"""Headless Chromium, without a network."""

import re
import subprocess
import tempfile
from pathlib import Path
from shutil import which

import pytest

CHROMIUM = which('chromium') or which('chromium-browser') or which('google-chrome')
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')

_PROBE = """<script>addEventListener('load', () => {
  document.body.dataset.width = innerWidth;
  document.body.dataset.needed = document.documentElement.scrollWidth;
  document.body.dataset.resources = performance.getEntriesByType('resource')
    .filter(entry => !entry.name.startsWith('data:')).length;
  document.body.dataset.broken = [...document.images].filter(i => !i.naturalWidth).length;
});
addEventListener('error', event => document.body.dataset.error = event.message);
</script>"""


def browse(page: Path, query: str = '', width: int = 1400) -> str:
    """The page's DOM after its scripts ran, with what a probe saw in ``<body data-...>``."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, 'page.html')
        copy.write_text(page.read_text().replace('<head>', f'<head>{_PROBE}', 1))
        result = subprocess.run(
            [
                CHROMIUM,
                '--headless',
                '--no-sandbox',
                '--disable-gpu',
                '--disable-background-networking',
                '--disable-sync',
                '--host-resolver-rules=MAP * ~NOTFOUND',
                f'--user-data-dir={folder}/profile',
                f'--window-size={width},900',
                '--dump-dom',
                f'{copy.as_uri()}{query}',
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def probe(dom: str) -> dict[str, str]:
    """What the probe saw: widths in pixels, resources from elsewhere, broken images, errors."""
    body = re.search('<body[^>]*>', dom)[0]
    return dict(re.findall('data-([a-z]+)="([^"]*)"', body))


def check_page(page: Path) -> None:
    """Check that a page needs nothing else, runs without errors and fits narrow and wide."""
    for width in (500, 1400):  # a window is never narrower
        seen = probe(browse(page, width=width))
        assert seen['resources'] == seen['broken'] == '0' and 'error' not in seen
        assert int(seen['needed']) <= int(seen['width']) == width
