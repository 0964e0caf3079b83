"""Boxes and masks of COCO annotations: what is wrong with them, and how they may be meant."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Box = tuple[float, float, float, float] | list[float]
Note = Callable[..., None]  # called with kind, detail and, by default, fatal=True

_FITS, _CONTRADICTS = 0.8, 0.5  # IoU of a box with the box around its mask
_FEW = 3  # boxes outside their images from which on they are a pattern
_LONGEST_LINE = 2**20  # pixels; pycocotools' memory grows by them


class Shape(NamedTuple):
    """A mask that can be used.

    Attributes:
        mask: Polygons or run lengths; ``None`` if there are none.
        area: In pixels.
        box: The box around it; ``None`` without a mask.
    """

    mask: list | dict | None
    area: float
    box: Box | None


def absent(value: Any) -> bool:
    """Whether a value says nothing: null, NaN, empty, or a list of such."""
    if isinstance(value, list):
        return all(absent(part) for part in value)
    return value in (None, '', {}) or (isinstance(value, float) and math.isnan(value))


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether these are numbers, as many as asked for, whose sums and products do not overflow."""
    return (
        isinstance(values, list)
        and (count is None or len(values) == count)
        and all(isinstance(v, int | float) and abs(v) < 2**53 for v in values)
    )


def short(value: Any) -> str:
    """What a value looks like, in a few words."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def check_box(box: Any, image: dict, note: Note) -> list[float] | None:
    """The box within the image, ``None`` if there is nothing of it."""
    if not are_numbers(box, 4) or min(box[2:]) < 0:
        form = ', no list of x, y, width, height' if not are_numbers(box, 4) else ''
        if isinstance(box, list) and len(box) == 2 and all(are_numbers(p, 2) for p in box):
            form = ', two corners: COCO has x, y, width, height'
        note('degenerate box', f'bbox {short(box)}{form}')
        return None
    x, y, width, height = box
    if width == 0 or height == 0:
        note('box of less than a pixel', f'bbox {box}: left out', False)
        return None
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image['width']), min(y + height, image['height'])
    inside = max(right - left, 0) * max(bottom - top, 0) / (width * height)
    size = f'{image["width"]} x {image["height"]}'
    if inside < 0.5:
        note('box outside the image', f'bbox {box} in {size}')
        return None
    if max(left - x, top - y, x + width - right, y + height - bottom) > 1:
        note('box partly outside the image', f'bbox {box} in {size}: cut at the edge', False)
    if right - left < 1 or bottom - top < 1:
        note('box of less than a pixel', f'bbox {box}: left out', False)
        return None
    return [left, top, right - left, bottom - top]


def check_mask(mask: Any, image: dict, note: Note) -> Shape | None:
    """The mask without its bad polygons, ``None`` if there is nothing left of it."""
    if absent(mask):
        return Shape(None, 0, None)
    return (_check_polygons if isinstance(mask, list) else _check_lengths)(mask, image, note)


def _check_polygons(mask: list, image: dict, note: Note) -> Shape | None:
    from pycocotools import mask as mask_tools  # comes with mmdet

    height, width = image['height'], image['width']
    good = [part for part in mask if _is_polygon(part)]
    area = 0
    if good:
        area = int(mask_tools.area(mask_tools.merge(mask_tools.frPyObjects(good, height, width))))
    if not area:
        note('degenerate polygon', _polygon_form(mask, good))
        return None
    if len(good) < len(mask):
        bad = len(mask) - len(good)
        note('degenerate polygon', f'{bad} of {len(mask)} polygons left out', False)
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in good])
    points = points.clip(0, (width, height)).astype(float)
    first, last = points.min(axis=0), points.max(axis=0)
    return Shape(good, area, [*first.tolist(), *(last - first).tolist()])


def _is_polygon(part: Any) -> bool:
    return (
        are_numbers(part)
        and len(part) >= 6
        and len(part) % 2 == 0
        and max(map(abs, part)) < _LONGEST_LINE
    )


def _polygon_form(mask: list, good: list) -> str:
    """What is wrong with polygons that cover nothing."""
    wanted = 'COCO has a list of polygons, [[x1, y1, x2, y2, x3, y3, ...]]'
    parts = [part for part in mask if isinstance(part, list)]
    pairs = [part for part in (*parts, *(p for part in parts for p in part)) if are_numbers(part)]
    if are_numbers(mask):
        return f'it is one flat list of numbers; {wanted}'
    if pairs and all(len(pair) == 2 for pair in pairs):
        return f'it is a list of [x, y] pairs; {wanted}'
    if pairs and all(len(part) == 4 for part in pairs):
        return f'it is two corners, which are no polygon; {wanted}'
    if good and all(0 <= value <= 1 for part in good for value in part):
        return 'its coordinates look relative (0 to 1); COCO has pixels'
    if not parts:
        return f'it is {short(mask)}; {wanted}'
    return f'{len(mask)} polygons cover no pixel of the image'


def _check_lengths(mask: Any, image: dict, note: Note) -> Shape | None:
    from pycocotools import mask as mask_tools

    height, width = image['height'], image['width']
    try:
        counts, size = mask['counts'], list(mask['size'])
        if size != [height, width]:
            raise ValueError(f'its size is {size}, not {[height, width]}')
        if isinstance(counts, list):
            if (
                not are_numbers(counts)
                or min(counts, default=0) < 0
                or sum(counts) != height * width
            ):
                raise ValueError('its counts do not add up to the image')
            lengths = mask_tools.frPyObjects(mask, height, width)
        else:
            lengths = dict(size=size, counts=counts)
        area = int(mask_tools.decode(lengths).sum())
    except (KeyError, TypeError, ValueError) as error:
        note('bad run lengths', f'{type(error).__name__}: {error}')
        return None
    if not area:
        note('empty mask', 'its run lengths cover no pixel')
        return None
    return Shape(mask, area, mask_tools.toBbox(lengths).tolist())


def overlap(a: Box, b: Box) -> float:
    """IoU of two boxes; 0 if one of them has no area."""
    both = _common(a, b)
    return both / (a[2] * a[3] + b[2] * b[3] - both) if both else 0.0


def _common(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


# How boxes are written elsewhere, and the same as x, y, width, height.
_ORDERS: dict[str, Callable[..., Box]] = {
    'x1 y1 x2 y2': lambda a, b, c, d: (a, b, c - a, d - b),
    'centre, width, height': lambda a, b, c, d: (a - c / 2, b - d / 2, c, d),
    'y x height width': lambda a, b, c, d: (b, a, d, c),
    'y1 x1 y2 x2': lambda a, b, c, d: (b, a, d - b, c - a),
}
_RELATIVE = {'x y width height': lambda *box: box} | _ORDERS


def _readings(box: Box, width: float, height: float) -> dict[str, Box]:
    """What four numbers are if they are not x, y, width, height in pixels."""
    found = {name: read(*box) for name, read in _ORDERS.items()}
    for unit, most in (('relative (0 to 1)', 1), ('in percent', 100)):
        if max(box) <= most:
            for name, read in _RELATIVE.items():
                x, y, w, h = (value / most for value in read(*box))
                found[f'{name}, {unit}'] = (x * width, y * height, w * width, h * height)
    return found


class BoxLayout:
    """Collects over a file how its boxes seem to be written."""

    def __init__(self) -> None:
        self._boxes = self._relative = self._compared = self._plain = self._outside = 0
        self._fits: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()

    def add(self, box: Box, image: dict, shape: Shape | None, area: float | None) -> None:
        """Take note of an annotation's four numbers, and of its mask's box or else its area."""
        width, height = image['width'], image['height']
        self._boxes += 1
        self._relative += max(box) <= 1
        if shape is None:  # a mask that cannot be used
            return
        if shape.box:
            fits = _fitting(box, width, height, shape.box)
        else:
            fits = _fitting_area(box, area) if area else []
        if shape.box or fits:
            self._compared += 1
            self._fits.update(fits)
            return
        self._plain += 1
        self._outside += box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1
        for name in ('x1 y1 x2 y2', 'centre, width, height'):
            x, y, w, h = _ORDERS[name](*box)
            self._inside[name] += (
                min(x, y) >= -1 and min(w, h) >= 0 and x + w <= width + 1 and y + h <= height + 1
            )

    def found(self) -> str | None:
        """How the boxes look, and why, if that is not COCO's way."""
        (best, count), *_ = self._fits.most_common(1) or [('', 0)]
        if count > self._fits[''] and 2 * count >= self._compared:
            return f'{best}: read so, {count} of {self._compared} fit their masks or areas'
        if self._boxes and self._relative == self._boxes:
            return 'relative (0 to 1): no number is above 1'
        plain = self._plain
        if self._outside >= max(_FEW, plain / 5):
            for name, count in self._inside.items():
                if count == plain:
                    inside = plain - self._outside
                    return f'{name}: read so, all are inside their images, else only {inside}'
        return None


def _fitting(box: Box, width: float, height: float, mask_box: Box) -> list[str]:
    """In which ways of reading a box fits its mask; ``''`` is COCO's."""
    if overlap(box, mask_box) >= _FITS:
        return ['']
    readings = _readings(box, width, height).items()
    return [name for name, read in readings if overlap(read, mask_box) >= _FITS]


def _fitting_area(box: Box, area: float) -> list[str]:
    """The same by an annotation's area, which many tools take from the box."""
    if math.isclose(box[2] * box[3], area, rel_tol=0.01):
        return ['']
    _, _, width, height = _ORDERS['x1 y1 x2 y2'](*box)
    fits = min(width, height) > 0 and math.isclose(width * height, area, rel_tol=0.01)
    return ['x1 y1 x2 y2'] if fits else []


def check_agreement(box: Box, given: Box, image: dict, mask_box: Box, note: Note) -> bool:
    """Whether a box can be that of its mask.

    Args:
        box: Within the image.
        given: As it is in the file.
        image: The image.
        mask_box: The box around the mask.
        note: Takes a mistake.
    """
    iou = overlap(box, mask_box)
    if iou >= _CONTRADICTS:
        return True
    looks = [name for name in _fitting(given, image['width'], image['height'], mask_box) if name]
    bad = bool(looks) or _common(box, mask_box) < 0.5 * mask_box[2] * mask_box[3]
    around = [round(value, 1) for value in mask_box]
    detail = f'bbox {given} and the box around its mask, {around}, have an IoU of {iou:.2f}'
    advice = f'; it looks like {looks[0]}' if looks else '' if bad else ': kept'
    note('box contradicts its mask', detail + advice, bad)
    return not bad
