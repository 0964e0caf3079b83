"""The algorithm as a whole, on one process and on two."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import free_port, images, small_model
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn import functional as F

from mmsnclr.datasets.image_id import image_id

NO_BATCH_NORM = {
    'backbone.norm_cfg': dict(type='GN', num_groups=4),
    'neck.norm_cfg': dict(type='GN', num_groups=4),
    'head.predictor.norm_cfg': dict(type='GN', num_groups=4),
}


def build(seed=0, **options):
    torch.manual_seed(seed)
    model = revert_sync_batchnorm(MODELS.build(small_model(**options)))
    model.momentum_encoder.load_state_dict(model._online_encoder.state_dict())
    return model.train()


def fill(model, steps, batch=8, rank=0, ranks=1):
    """Enqueue the keys of some batches without moving any parameter."""
    share = batch // ranks
    for step in range(steps):
        views, samples = images(batch, seed=step, first_id=step * batch)
        mine = slice(rank * share, (rank + 1) * share)
        inner = getattr(model, 'module', model)
        with torch.no_grad():
            inner.loss([v[mine] for v in views], samples[mine])
        inner.after_optimizer_step(0.0)


def measured_step(model, rank=0, ranks=1, batch=8):
    views, samples = images(batch, seed=99, first_id=0)
    share = batch // ranks
    mine = slice(rank * share, (rank + 1) * share)
    loss = model([v[mine] for v in views], samples[mine], mode='loss')['loss']
    loss.backward()
    inner = getattr(model, 'module', model)
    gradients = {n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize('projection', [None, 'linear'])
def test_every_online_parameter_learns_in_warm_up_and_after(projection):
    model = build(**{'head.projection': projection})
    online = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith('momentum_encoder') for name in online)
    for use_neighbors in (False, True):
        fill(model, 2)
        model.use_neighbors = use_neighbors
        model.zero_grad()
        _, gradients = measured_step(model)
        assert set(gradients) == online
        assert (model.diagnostics is not None) == use_neighbors
        assert not use_neighbors or not model.diagnostics.log_weights.requires_grad
        assert all(torch.isfinite(g).all() for g in gradients.values())
        if projection and use_neighbors:
            assert all(gradients[f'head.projections.{i}.weight'].any() for i in (0, 1))


def test_neighbors_wait_until_the_set_holds_k():
    model = build(**{'head.neighbors': 12})
    views, samples = images(8, seed=0)
    model.loss(views, samples)
    model.after_optimizer_step(0.0)
    model.loss(views, samples)
    assert model.queue.fill == 8 and model.diagnostics is None
    model.after_optimizer_step(0.0)
    model.loss(views, samples)
    assert model.queue.fill == 16 and model.diagnostics is not None


def loss_by_hand(model, views, samples, sets):
    """Eq. 2 over both orders in float64; ``sets`` are rows and ids of each image's candidates."""
    y = [model.neck(model.backbone(v))[0] for v in views]
    z = [F.normalize(model.head.predictor((x,))[0], dim=1).double() for x in y]
    y = [F.normalize(x, dim=1).double() for x in y]
    k = [F.normalize(model.momentum_encoder(v)[0], dim=1).double() for v in views]
    expected, t = 0, model.head.loss_module.temperature
    for a, b in ((0, 1), (1, 0)):
        picked = []
        for key, sample, (rows, ids) in zip(k[b], samples, sets):
            rows = rows[ids != image_id(sample)].double()
            picked.append(rows[(-(rows @ key)).argsort()[: model.head.neighbors]])
        normalizer = torch.exp(z[a] @ torch.cat([k[b], *picked]).T / t).sum(1)
        for n, rows in enumerate(picked):
            w = torch.softmax(rows @ y[a][n], 0)
            positives = torch.exp(z[a][n] @ k[b][n] / t) + w @ torch.exp(rows @ z[a][n] / t)
            expected -= torch.log(positives / normalizer[n]) / len(samples)
    return expected


def test_loss_is_that_of_both_orders_against_the_set_as_it_stood_before():
    model = build().eval()  # BN with running statistics: views can be encoded again by hand
    model.training = True
    fill(model, 3)
    before, ids = (x[: model.queue.fill].clone() for x in (model.queue.features, model.queue.ids))
    views, samples = images(8, seed=50, first_id=1000)
    loss = model.loss(views, samples)['loss'].double()
    expected = loss_by_hand(model, views, samples, [(before, ids)] * 8)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.queue.features[: len(before)], before)
    model.after_optimizer_step(0.0)
    keys = F.normalize(model.momentum_encoder(views[1])[0], dim=1)
    torch.testing.assert_close(model.queue.features[len(before) :][:8], keys)


def test_images_without_identity_are_said_once(caplog):
    model = build()
    views, _ = images(8, seed=0)
    logger = MMLogger.get_instance('identity', log_level='WARNING')
    logger.addHandler(caplog.handler)  # it passes nothing on to the root logger
    for _ in range(2):
        model.loss(views, [DataSample() for _ in range(8)])
    (warning,) = caplog.records
    assert 'may become its own neighbour' in warning.getMessage()


@pytest.mark.parametrize(
    ('end', 'progress', 'expected'),
    [(None, 0.7, 0.9), (1.0, 0.0, 0.9), (1.0, 0.5, 0.95), (1.0, 1.0, 1.0)],
)
def test_momentum_encoder_follows_by_the_coefficient(end, progress, expected):
    model = build(momentum_coefficient=0.9, end_momentum_coefficient=end)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 1
    before = copy.deepcopy(model.momentum_encoder)
    model.after_optimizer_step(progress)
    for old, new, online in zip(
        before.parameters(), model.momentum_encoder.parameters(), model._online_encoder.parameters()
    ):
        torch.testing.assert_close(new, expected * old + (1 - expected) * online)


def test_init_weights_starts_both_encoders_alike():
    model = MODELS.build(small_model())
    model.init_weights()
    for a, b in zip(model._online_encoder.parameters(), model.momentum_encoder.parameters()):
        assert torch.equal(a, b)


def test_a_forgotten_hook_is_noticed():
    model = build()
    model._max_pending = 3
    views, samples = images(2, seed=0)
    for _ in range(3):
        model.loss(views, samples)
    with pytest.raises(RuntimeError, match='NeighborQueueHook'):
        model.loss(views, samples)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'head.neighbors': 65}, "neighbors=65 exceeds the candidate set's length 64; lower model"),
        ({'momentum_coefficient': 1.5}, 'model.momentum_coefficient=1.5'),
        ({'neck.in_channels': None}, 'model.neck.in_channels'),
        ({'head.gamma': [1.0, 2.0]}, 'head.gamma must be one positive float or 4'),
        ({'head.positiveness': 'hard'}, 'head.positiveness'),
        ({'head.projection': 'mlp'}, 'head.projection'),
        ({'head.projection': 'linear', 'head.detach_positiveness': True}, 'learns through'),
        ({'head.loss.form': 'logsum'}, 'loss.form'),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(small_model(**options))


def test_a_set_of_another_width_is_named():
    model = build(**{'queue.dim': 8})
    with pytest.raises(ValueError, match=r'set model\.queue\.dim=16'):
        model.loss(*images(4, seed=0))


def test_detaching_the_positiveness_changes_the_gradient_only():
    results = []
    for detach in (False, True):
        model = build(**{'head.detach_positiveness': detach})
        fill(model, 2)
        results.append(measured_step(model))
    (loss, gradients), (detached_loss, detached) = results
    assert torch.equal(loss, detached_loss)
    assert not torch.equal(gradients['neck.fc1.weight'], detached['neck.fc1.weight'])
    assert torch.equal(
        gradients['head.predictor.fc1.weight'], detached['head.predictor.fc1.weight']
    )


def _rank(rank, ranks, port, folder, options):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=ranks
    )
    model = build(**NO_BATCH_NORM, **options)
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    fill(wrapped, 4, rank=rank, ranks=ranks)
    held = {name: value.clone() for name, value in model.queue.entries().items()}
    loss, gradients = measured_step(wrapped, rank, ranks)
    dist.all_reduce(loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    share = 8 // ranks
    for step in range(50):
        views, samples = images(8, seed=step, first_id=step * 8)
        mine = slice(rank * share, (rank + 1) * share)
        wrapped([v[mine] for v in views], samples[mine], mode='loss')['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_optimizer_step(step / 50)
    result = dict(loss=loss / ranks, gradients=gradients, held=held, queue=model.queue.entries())
    torch.save(result, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(
    scope='module',
    params=[
        pytest.param((2, {}), id='2_ranks-one_set'),
        pytest.param((2, {'queue.sync': False}), id='2_ranks-a_set_each'),
        # Each image is in its rank's set of 16, so one neighbour is missing.
        pytest.param((2, {'queue.sync': False, 'head.neighbors': 16}), id='2_ranks-too_small_sets'),
        pytest.param((2, {'type': 'NNCLR', 'head.neighbors': 1}), id='2_ranks-nnclr'),
        pytest.param((4, {}), id='4_ranks-one_set', marks=pytest.mark.slow),
        pytest.param((8, {}), id='8_ranks-one_set', marks=pytest.mark.slow),
    ],
)
def several_ranks(request, tmp_path_factory):
    ranks, options = request.param
    folder = tmp_path_factory.mktemp('ranks')
    mp.spawn(_rank, (ranks, free_port(), str(folder), options), nprocs=ranks)
    return options, [torch.load(folder / f'{rank}.pth') for rank in range(ranks)]


def test_several_processes_compute_what_one_does_with_the_joined_batch(several_ranks):
    options, results = several_ranks
    sync = options.get('queue.sync', True)
    model = build(**NO_BATCH_NORM, **options)
    if not sync:
        # Each rank's images find their neighbours in its own set.
        sets = [(r['held']['features'][:16], r['held']['ids'][:16]) for r in results]
        each = [own for own in sets for _ in range(8 // len(results))]
        loss = loss_by_hand(model, *images(8, seed=99, first_id=0), each).float()
        for result in results:
            torch.testing.assert_close(result['loss'], loss.detach(), rtol=1e-5, atol=1e-5)
        return
    fill(model, 4)
    loss, gradients = measured_step(model)
    for result in results:
        assert result['gradients'].keys() == gradients.keys()
        torch.testing.assert_close(result['loss'], loss, rtol=1e-6, atol=1e-6)
        for name, gradient in gradients.items():
            error = (result['gradients'][name] - gradient).norm()
            rounding = 5e-7 * len(results)  # of as many partial sums
            assert error <= rounding * max(1, gradient.norm()), name
            assert error <= 1e-3 * gradient.norm(), name


def test_sets_stay_bit_equal_between_ranks(several_ranks):
    options, (first, *others) = several_ranks
    sync = options.get('queue.sync', True)
    for other in others:
        same = {
            name: torch.equal(value, other['queue'][name]) for name, value in first['queue'].items()
        }
        assert same['features'] == same['ids'] == sync
    assert first['queue']['enqueued'] == 55 * (8 if sync else 4)


def test_gradients_agree_between_ranks(several_ranks):
    _, (first, *others) = several_ranks
    for other in others:
        for name, gradient in first['gradients'].items():
            assert torch.equal(gradient, other['gradients'][name])
