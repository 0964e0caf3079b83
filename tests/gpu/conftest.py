"""Each check here runs on the CPU in `make test`, and on a CUDA device by `make test-gpu`."""

import pytest
import torch


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request):
    if request.param == 'cuda' and not torch.cuda.is_available():
        what = request.function.__name__.removeprefix('test_').replace('_', ' ')
        pytest.skip(f'no CUDA device; not checked there: {what}')
    yield request.param
    if request.param == 'cuda':
        torch.cuda.synchronize()  # an error on the device belongs to this test
        torch.cuda.empty_cache()
