"""Sphinx's settings: `make docs` builds the site into docs/_build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mmsnclr.version import __version__

project, author, release = 'mmsnclr', 'The mmsnclr authors', __version__
copyright = author
extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
exclude_patterns = ['_build']
nb_execution_mode = 'off'  # docs/pictures.py runs the notebook and stores what it says
myst_heading_anchors = 3
myst_enable_extensions = ['colon_fence', 'dollarmath']
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
napoleon_numpy_docstring, napoleon_use_ivar = False, True
copybutton_exclude = '.linenos, .gp'
html_theme, html_title = 'furo', f'mmsnclr {release}'
html_theme_options = dict(navigation_with_keys=True)
