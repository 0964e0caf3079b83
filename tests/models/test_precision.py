"""Search and loss multiply in full float32, whatever is allowed for the encoders."""

import pytest
import torch
from helpers import METHODS, build_method, config_of, fill_set, images, small_model
from torch.utils._python_dispatch import TorchDispatchMode

from mmsnclr.models.precision import exact_float32, products

PRODUCTS = {'mm', 'addmm', 'addmm_', 'bmm', 'baddbmm'}
MATMUL = torch.backends.cuda.matmul
NEW = hasattr(MATMUL, 'fp32_precision')


def legacy():
    MATMUL.allow_tf32 = True


def high():
    torch.set_float32_matmul_precision('high')


def medium():
    torch.set_float32_matmul_precision('medium')


def of_cuda():
    MATMUL.fp32_precision = 'tf32'


def of_all():
    torch.backends.fp32_precision = 'tf32'


ALLOWED = [legacy, high, medium, *((of_cuda, of_all) if NEW else ())]


def flags():
    """All that decides how float32 is multiplied."""
    try:
        level = torch.get_float32_matmul_precision()
    except RuntimeError:  # as torch says it where the newer interface alone was used
        level = None
    new = ()
    if NEW:
        b = torch.backends
        new = tuple(x.fp32_precision for x in (b, b.cuda.matmul, b.mkldnn.matmul))
    return level, *new


@pytest.fixture(params=ALLOWED, ids=lambda allow: allow.__name__)
def allowed(request):
    """TF32 allowed by one of torch's interfaces; the flags as they then are."""
    request.param()
    yield flags()
    if NEW:
        for backend in (torch.backends, MATMUL, torch.backends.mkldnn.matmul):
            backend.fp32_precision = 'none'
    torch.set_float32_matmul_precision('highest')
    if NEW:
        MATMUL.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = 'none'


class Seen(TorchDispatchMode):
    """The flags at each product."""

    def __init__(self):
        super().__init__()
        self.flags = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in PRODUCTS:
            self.flags.append(flags())
        return function(*args, **(kwargs or {}))


class AsIs(torch.nn.Module):
    """A predictor without products."""

    def forward(self, inputs):
        return inputs


EXACT = ('ieee', 'none')


def is_exact(seen):
    level, *new = seen
    return level in (None, 'highest') and all(value in EXACT for value in new[1:])


OPTIONS = {
    **{name: lambda name=name: config_of(name) for name in METHODS},
    'linear projections': lambda: small_model(**{'head.projection': 'linear'}),
    'positives': lambda: small_model(**{'head.loss.neighbors_in': 'positives'}),
    'negatives': lambda: small_model(**{'head.loss.neighbors_in': 'negatives'}),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_search_loss_and_their_gradients_see_full_float32(allowed, name):
    model = build_method(OPTIONS[name]())
    fill_set(model, 3)
    model.head.predictor = AsIs()
    keys = torch.nn.functional.normalize(torch.randn(8, model.queue.dim), dim=1)
    projection = torch.randn(8, model.queue.dim, requires_grad=True)
    with Seen() as seen:
        loss, _ = model.compare(projection, keys, keys, torch.arange(8))
        forward = len(seen.flags)
        loss.backward()
    # The loss of SCE and of neighbours is computed with its gradient.
    assert forward and (len(seen.flags) > forward or 'sce' in name)
    assert all(map(is_exact, seen.flags)), seen.flags
    assert flags() == allowed


def test_the_encoders_keep_what_is_allowed(allowed):
    model = build_method(small_model())
    fill_set(model, 3)
    with Seen() as seen:
        model.loss(*images(8, seed=0))['loss'].backward()
    assert not is_exact(allowed)
    assert {is_exact(flags) for flags in seen.flags} == {True, False}


def test_what_was_set_is_left_as_it_was_also_after_an_error(allowed):
    with pytest.raises(KeyError), exact_float32(torch.device('cpu')):
        assert is_exact(flags())
        raise KeyError
    assert flags() == allowed


@pytest.mark.skipif(not NEW, reason='torch before 2.9 has one setting for all')
def test_a_backend_goes_on_following_the_setting_for_all():
    try:
        torch.backends.fp32_precision = 'tf32'
        with exact_float32(torch.device('cpu')):
            pass
        torch.backends.fp32_precision = 'ieee'
        assert MATMUL.fp32_precision == 'ieee'
    finally:
        torch.backends.fp32_precision = 'none'


def test_products_and_their_gradients_are_those_of_autograd_to_the_bit():
    first, second = (torch.randn(n, 16, requires_grad=True) for n in (8, 24))
    weight = torch.randn(8, 24)
    results = []
    for product in (products(first, second), first @ second.T):
        results.append([product, *torch.autograd.grad((product * weight).sum(), (first, second))])
    assert all(torch.equal(a, b) for a, b in zip(*results))
