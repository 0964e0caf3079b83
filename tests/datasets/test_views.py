"""The fast views are the same augmentation as torchvision's on PIL images."""

import random
from io import BytesIO

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from PIL import Image, ImageFilter
from scipy.stats import binomtest, ks_2samp
from sklearn.datasets import load_sample_images
from torchvision.transforms import ColorJitter, InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from mmsnclr.datasets import AugmentedViews, decoding, views
from mmsnclr.datasets.views import View

PHOTOGRAPHS = load_sample_images().images  # RGB
DRAWS = 3000
MODES = ('bicubic', 'bilinear')


def bgr(image):
    return np.ascontiguousarray(np.asarray(image)[..., ::-1])


def difference(ours, reference):
    """Mean absolute difference in grey levels of a BGR array and a PIL image."""
    return np.abs(ours.astype(int) - bgr(reference).astype(int)).mean()


OPERATIONS = {
    'brightness': (views.adjust_brightness, tv.adjust_brightness, (0.6, 0.9, 1.4)),
    'contrast': (views.adjust_contrast, tv.adjust_contrast, (0.6, 0.9, 1.4)),
    'saturation': (views.adjust_saturation, tv.adjust_saturation, (0.8, 1.0, 1.2)),
    'hue': (views.adjust_hue, tv.adjust_hue, (-0.1, -0.03, 0.05, 0.1, 0.5)),
    'blur': (
        views.blur,
        lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
        (0.1, 0.5, 1.0, 2.0),
    ),
    'gray': (
        lambda image, _: views.to_gray(image),
        lambda image, _: tv.rgb_to_grayscale(image, 3),
        (None,),
    ),
    'solarize': (
        lambda image, _: views.solarize(image),
        lambda image, _: tv.solarize(image, 128),
        (None,),
    ),
}


@pytest.mark.parametrize('name', OPERATIONS)
@pytest.mark.parametrize('photograph', PHOTOGRAPHS)
def test_each_operation_is_torchvisions(name, photograph):
    ours, reference, amounts = OPERATIONS[name]
    image = Image.fromarray(photograph).resize((224, 224))
    for amount in amounts:
        assert difference(ours(bgr(image), amount), reference(image, amount)) < 2
    other = reference(image, 0.3 if name != 'blur' else 6.0)
    if amounts[0] is not None:
        assert difference(ours(bgr(image), amounts[0]), other) > 2  # the measure can tell


@pytest.mark.parametrize('photograph', PHOTOGRAPHS)
@pytest.mark.parametrize('box', [(0, 0, 427, 640), (50, 100, 300, 250), (200, 200, 120, 90)])
@pytest.mark.parametrize('mode', MODES)
def test_the_crop_is_torchvisions(photograph, box, mode):
    ours = views.resized_crop(bgr(photograph), box, 224, interpolation=mode)
    image = Image.fromarray(photograph)
    by = {m: tv.resized_crop(image, *box, [224, 224], InterpolationMode(m)) for m in MODES}
    assert difference(ours, by.pop(mode)) < 0.5 < difference(ours, *by.values())


def test_views_are_cropped_by_the_interpolation_that_is_asked_for(tmp_path):
    results = dict(img_path=str(tmp_path / 'a.png'))
    Image.fromarray(PHOTOGRAPHS[0]).save(results['img_path'])
    plain = dict(flip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0)
    for mode in MODES:
        transform = AugmentedViews([plain], interpolation=mode)
        transform.set_epoch(0, 0)
        box = views.crop_box(427, 640, View(), random.Random(transform.view_seed(results, 0)))
        expected = views.resized_crop(bgr(PHOTOGRAPHS[0]), box, 224, interpolation=mode)
        assert np.array_equal(transform(dict(results))['img'][0], expected)
    with pytest.raises(ValueError, match="interpolation='nearest' must be 'bicubic' or 'bilinear'"):
        AugmentedViews([plain], interpolation='nearest')


@pytest.mark.parametrize('photograph', PHOTOGRAPHS)
@pytest.mark.parametrize('divisor', [2, 4])
def test_a_jpeg_decoded_at_a_fraction_gives_the_same_crop(tmp_path, photograph, divisor):
    path, size = tmp_path / 'a.jpg', 48
    Image.fromarray(photograph).save(path, quality=95)
    box = (16, 8, divisor * size, divisor * size)
    data = path.read_bytes()
    header = decoding.plain_header(data, path)
    small, by = decoding.decode(data, divisor, header, path)
    assert by == divisor and small.shape[0] == -(-427 // divisor)
    reference = tv.resized_crop(Image.open(path), *box, [size, size], InterpolationMode.BICUBIC)
    assert difference(views.resized_crop(small, box, size, divisor), reference) < 2


def test_an_image_is_decoded_as_large_as_its_smallest_crop_needs(tmp_path, monkeypatch):
    divisors = []

    def decode(data, spare, *args):
        divisors.append(spare)
        return decoding.decode(data, spare, *args)

    monkeypatch.setattr(views, 'decode', decode)
    path = str(tmp_path / 'a.jpg')
    Image.fromarray(PHOTOGRAPHS[0]).save(path)
    shares = ((0.9, 1.0), (0.05, 0.06))  # at least 380 pixels high, at most 148
    transform = AugmentedViews([dict(size=24, crop_scale=share) for share in shares])
    for seed in range(5):
        transform.set_epoch(seed, 0)
        transform(dict(img_path=path))
    assert len(divisors) == 5 and max(divisors) <= 148 // 24


def same_distribution(ours, reference):
    return ks_2samp(ours, reference).pvalue > 1e-3


def test_crops_are_drawn_as_torchvisions():
    torch.manual_seed(0)
    draw = random.Random(0)
    image = Image.fromarray(PHOTOGRAPHS[0])
    ours = np.array([views.crop_box(427, 640, View(), draw) for _ in range(DRAWS)])
    reference = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    )
    for column in range(4):
        assert same_distribution(ours[:, column], reference[:, column])
    assert same_distribution(ours[:, 2] * ours[:, 3], reference[:, 2] * reference[:, 3])
    other = [views.crop_box(427, 640, View(crop_scale=(0.2, 1.0)), draw) for _ in range(DRAWS)]
    assert not same_distribution(np.array(other)[:, 2], reference[:, 2])


def test_crops_reach_every_edge():
    draw, view = random.Random(0), View(crop_scale=(0.25, 0.25), crop_aspect=(1.0, 1.0))
    boxes = {views.crop_box(4, 4, view, draw) for _ in range(200)}
    assert boxes == {(top, left, 2, 2) for top in range(3) for left in range(3)}


def test_a_crop_that_never_fits_falls_back_to_the_middle_as_torchvisions():
    for height, width in ((10, 400), (400, 10)):
        reference = RandomResizedCrop.get_params(
            Image.new('RGB', (width, height)), [0.9, 1.0], [3 / 4, 4 / 3]
        )
        ours = views.crop_box(height, width, View(crop_scale=(0.9, 1.0)), random.Random(0))
        assert ours == tuple(reference)


def test_amounts_and_probabilities_are_torchvisions(monkeypatch):
    calls = []
    names = {
        'adjust_brightness': 'brightness',
        'adjust_contrast': 'contrast',
        'adjust_saturation': 'saturation',
        'adjust_hue': 'hue',
        'blur': 'blur',
        'to_gray': 'gray',
        'solarize': 'solarize',
    }
    for function, name in names.items():
        record = lambda image, *amount, name=name: calls[-1].append((name, *amount)) or image  # noqa: E731
        monkeypatch.setattr(views, function, record)
    view = View(blur_prob=0.1, solarize_prob=0.2, flip_prob=0.3)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    flips = 0
    draw = random.Random(0)
    for _ in range(DRAWS):
        calls.append([])
        flips += not np.array_equal(views.augment(image, view, draw), image)

    seen = {
        name: [c[1:] for call in calls for c in call if c[0] == name] for name in names.values()
    }
    for name, probability in (
        ('brightness', 0.8),
        ('hue', 0.8),
        ('gray', 0.2),
        ('blur', 0.1),
        ('solarize', 0.2),
    ):
        assert binomtest(len(seen[name]), DRAWS, probability).pvalue > 1e-3, name
    assert binomtest(flips, DRAWS, 0.3).pvalue > 1e-3

    jitter = ColorJitter(0.4, 0.4, 0.2, 0.1)
    torch.manual_seed(0)
    reference = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(DRAWS)
    ]
    for column, name in enumerate(('brightness', 'contrast', 'saturation', 'hue'), start=1):
        ours = [amount for (amount,) in seen[name]]
        assert same_distribution(ours, [float(params[column]) for params in reference]), name
    assert same_distribution([s for (s,) in seen['blur']], np.random.uniform(0.1, 2.0, DRAWS))
    orders = [
        tuple(c[0] for c in call if c[0] in ('brightness', 'contrast', 'saturation', 'hue'))
        for call in calls
    ]
    orders = [order for order in orders if order]
    assert len(set(orders)) == 24
    for order in set(orders):
        assert binomtest(orders.count(order), len(orders), 1 / 24).pvalue > 1e-4


def write(path, mode='RGB', **save):
    image = Image.fromarray(PHOTOGRAPHS[1])
    image.convert(mode).save(path, **save)
    return str(path)


def make(path, epoch=0, **settings):
    transform = AugmentedViews([settings, dict(settings, blur_prob=0.1)])
    transform.set_epoch(0, epoch)
    return transform(dict(img_path=path))


def test_views_depend_on_image_epoch_and_view_alone(tmp_path):
    path = write(tmp_path / 'a.jpg')
    first = make(path)['img']
    np.random.rand(), random.random()
    assert all(np.array_equal(a, b) for a, b in zip(first, make(path)['img']))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], make(path, epoch=1)['img'][0])
    other = make(write(tmp_path / 'b.jpg'))['img']
    assert not np.array_equal(first[0], other[0])


def test_without_an_epoch_views_are_random(tmp_path):
    path = write(tmp_path / 'a.jpg')
    transform = AugmentedViews([{}])
    one, two = (transform(dict(img_path=path))['img'][0] for _ in range(2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    ('name', 'mode', 'save'),
    [
        ('a.jpg', 'RGB', {}),
        ('a.jpg', 'CMYK', {}),
        ('a.jpg', 'L', {}),
        ('a.png', 'RGB', {}),
        ('a.png', 'P', {}),
        ('a.png', 'RGBA', {}),
        ('a.webp', 'RGB', {}),
    ],
)
def test_every_kind_of_file_loads(tmp_path, name, mode, save):
    result = make(write(tmp_path / name, mode, **save))
    assert [view.shape for view in result['img']] == [(224, 224, 3)] * 2
    assert result['ori_shape'] == (427, 640)


def test_a_turned_photograph_is_looked_at_upright(tmp_path):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    path = write(tmp_path / 'a.jpg', exif=exif, quality=95)
    assert make(path)['ori_shape'] == (640, 427)
    still = dict(jitter_prob=0, gray_prob=0, blur_prob=0, flip_prob=0)
    transform = AugmentedViews([dict(still, crop_scale=(0.999, 1.0), crop_aspect=(0.6, 0.7))])
    view = transform(dict(img_path=path))['img'][0]
    upright = Image.fromarray(np.rot90(PHOTOGRAPHS[1], -1)).resize((224, 224), Image.BICUBIC)
    assert difference(view, upright) < 8  # crops differ by some pixels
    assert difference(view, upright.rotate(180)) > 30


def test_a_decoded_image_is_taken_as_it_is():
    image = bgr(PHOTOGRAPHS[0])
    result = AugmentedViews([dict(size=32), dict(size=16)])(dict(img=image))
    assert [view.shape[0] for view in result['img']] == [32, 16]


@pytest.mark.parametrize('content', [b'', b'no image', b'\xff\xd8\xff\xe0 no image either'])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / 'broken.jpg'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'broken\.jpg'):
        make(str(path))


def test_a_file_that_ends_in_its_header_is_named(tmp_path):
    stream = BytesIO()
    Image.fromarray(PHOTOGRAPHS[0]).save(stream, 'PNG')
    path = tmp_path / 'cut.png'
    path.write_bytes(stream.getvalue()[:60])
    with pytest.raises(ValueError, match=r'cut\.png'):
        make(str(path))


@pytest.mark.parametrize(
    'setting',
    [
        dict(blur_prob=1.5),
        dict(hue=0.6),
        dict(crop_scale=(0.5, 0.2)),
        dict(crop_scale=(0.5, 1.5)),
        dict(blur_sigma=(0.0, 1.0)),
        dict(size=0),
    ],
)
def test_settings_out_of_their_domain_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        AugmentedViews([setting])


def test_the_stock_pipeline_is_one_line_away(tmp_path):
    default = ROOT / 'configs/_base_/imagenet_two_views.py'
    config = tmp_path / 'stock.py'
    config.write_text(
        f"_base_ = '{default}'\n"
        'train_dataloader = dict(dataset=dict(pipeline=_base_.stock_pipeline))\n'
    )
    for pipeline, first in (
        (Config.fromfile(config).train_dataloader.dataset.pipeline, 'LoadImageFromFile'),
        (Config.fromfile(default).train_dataloader.dataset.pipeline, 'AugmentedViews'),
    ):
        assert pipeline[0].type == first
        data = dict(img_path=write(tmp_path / 'a.jpg'))
        for step in pipeline:
            data = TRANSFORMS.build(step)(data)
        assert [tuple(view.shape) for view in data['inputs']] == [(3, 224, 224)] * 2


@pytest.mark.parametrize(
    ('others', 'size'), [([], 224), ([dict(type='CenterCrop', crop_size=96)], 96)]
)
def test_a_crop_that_states_no_size_tells_none(others, size):
    pipeline = [dict(type='RandomResizedCrop'), *others]
    assert views.view_size(Config(dict(train_dataloader=dict(pipeline=pipeline)))) == size


def test_views_of_crop_and_flip_alone_change_no_value():
    image = bgr(PHOTOGRAPHS[0])
    view = View(**views.VIEW_KINDS['weak'])
    for seed in range(20):
        assert views.augment(image, view, random.Random(seed)).sum() == image.sum()


def test_views_without_colours_keep_the_order_of_values_and_the_hue():
    levels = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    photograph, bare = bgr(PHOTOGRAPHS[0]), dict(flip_prob=0, blur_prob=0)
    gray, strong = (
        [
            views.augment(
                levels, View(**bare, **dict(solarize_prob=0.2) | kind), random.Random(seed)
            )
            for seed in range(50)
        ]
        for kind in (views.VIEW_KINDS['gray'], views.VIEW_KINDS['strong'])
    )
    ordered = [
        [(np.diff(view[0, :, 0].astype(int)) >= 0).all() for view in of] for of in (gray, strong)
    ]
    assert all(ordered[0]) and not all(ordered[1])
    assert any(view.std() != levels.std() for view in gray)  # brightness and contrast differ
    still = View(**bare, **views.VIEW_KINDS['gray'], brightness=0.0, contrast=0.0)
    assert np.array_equal(views.augment(photograph, still, random.Random(0)), photograph)
