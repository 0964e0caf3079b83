"""HTML pages that need no other file and no network."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader

_TEMPLATES = Environment(
    loader=PackageLoader('mmsnclr.visualization'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Write a template of the package, named by its file, filled with values."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = _TEMPLATES.get_template(template).render(**values)
    path.write_text(page, encoding='utf-8', errors='backslashreplace')
    return path


def data_uri(image: np.ndarray) -> str:
    """An image ``(H, W, 3)`` uint8 BGR as an address, ``data:image/jpeg;base64,...``."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f'data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}'
