"""Headless Chromium, without a network."""

import re
import subprocess
import tempfile
from pathlib import Path
from shutil import which

import pytest

CHROMIUM = which('chromium') or which('chromium-browser') or which('google-chrome')
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')

_PROBE = """<script>
addEventListener('error', event => document.body.dataset.error = event.message);
addEventListener('load', () => parent.postMessage({
  ...document.body.dataset,
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  resources: performance.getEntriesByType('resource')
    .filter(entry => !entry.name.startsWith('data:')).length,
  broken: [...document.images].filter(image => !image.naturalWidth).length,
}, '*'));
</script>"""
# A window has a least width, a frame has none.
_FRAME = """<body><script>
addEventListener('message', event => Object.assign(document.body.dataset, event.data));
</script><iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe>"""


def browse(page: Path, query: str = '') -> str:
    """The page's DOM after its scripts ran."""
    return _dump(f'{page.as_uri()}{query}')


def probe(page: Path, width: int) -> dict[str, str]:
    """A page's widths in pixels, resources from elsewhere, broken images and errors."""
    with tempfile.TemporaryDirectory() as folder:
        text = page.read_text().replace('<head>', f'<head>{_PROBE}', 1)
        Path(folder, 'page.html').write_text(text)
        frame = Path(folder, 'frame.html')
        frame.write_text(_FRAME.format(width=width))
        body = re.search('<body[^>]*>', _dump(frame.as_uri()))[0]
    return dict(re.findall('data-([a-z]+)="([^"]*)"', body))


def check_page(page: Path) -> None:
    """Check that a page needs nothing else, runs without errors and fits narrow and wide."""
    for width in (400, 1400):
        seen = probe(page, width)
        assert seen['resources'] == seen['broken'] == '0' and 'error' not in seen
        assert int(seen['needed']) <= int(seen['width']) == width


def _dump(address: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        result = subprocess.run(
            [
                CHROMIUM,
                '--headless',
                '--no-sandbox',
                '--disable-gpu',
                '--disable-background-networking',
                '--disable-sync',
                '--host-resolver-rules=MAP * ~NOTFOUND',
                f'--user-data-dir={profile}',
                '--window-size=1440,1000',
                '--dump-dom',
                address,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout
