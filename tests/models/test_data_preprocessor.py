"""Views are normalised as by mmpretrain; samples stay where they are."""

import pytest
import torch
from helpers import ROOT, small_model
from mmengine.config import Config
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmsnclr.models import ViewsDataPreprocessor

SETTINGS = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)


def batch(views=2):
    images = [torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8) for _ in range(views)]
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    return dict(inputs=images if views > 1 else images[0], data_samples=samples)


@pytest.mark.parametrize('settings', [SETTINGS, dict(SETTINGS, to_rgb=False), {}], ids=str)
@pytest.mark.parametrize('views', [1, 2])
def test_views_are_those_of_mmpretrain(settings, views):
    data = batch(views)
    expected = SelfSupDataPreprocessor(**settings)(data)['inputs']
    found = ViewsDataPreprocessor(**settings)(data)['inputs']
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32


class Copies(TorchDispatchMode):
    """Notes what is copied to the device, and refuses operators that would do it themselves."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert 'index' not in str(function)
        if '_to_copy' in str(function) and args[0].device != result.device:
            self.shapes.append(tuple(result.shape))
        return result


def test_only_views_are_copied_to_the_device():
    preprocessor = ViewsDataPreprocessor(**SETTINGS, non_blocking=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        for name, buffer in list(preprocessor.named_buffers()):
            setattr(preprocessor, name, torch.empty(buffer.shape, device='cuda'))
        preprocessor._device = torch.device('cuda')
        data = batch()
        data['inputs'] = [fake.from_tensor(view) for view in data['inputs']]
        with Copies() as copies:
            result = preprocessor(data)
    assert copies.shapes == [(4, 3, 8, 8)] * 2
    assert all(sample.gt_label.device.type == 'cpu' for sample in result['data_samples'])


def test_methods_have_it_unless_their_config_names_another():
    recipe = Config.fromfile(ROOT / 'configs/_base_/snclr_r50.py').model.data_preprocessor
    older = dict(recipe, type='SelfSupDataPreprocessor')
    for settings, kind in (
        (recipe, ViewsDataPreprocessor),
        (older, SelfSupDataPreprocessor),
        (SETTINGS, ViewsDataPreprocessor),
        (None, ViewsDataPreprocessor),
        (SelfSupDataPreprocessor(), SelfSupDataPreprocessor),
    ):
        model = small_model()
        model.pop('data_preprocessor')
        built = MODELS.build(dict(model, data_preprocessor=settings))
        assert type(built.data_preprocessor) is kind
