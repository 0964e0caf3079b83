"""Training through the Runner: resume, warm-up, accumulation, logging."""

import copy
import json
import multiprocessing
from shutil import which

import numpy as np
import pytest
import torch
from helpers import small_run
from mmengine.hooks import Hook

from mmsnclr.engine import build_runner
from mmsnclr.engine.loops import using_workers


class Losses(Hook):
    """Records every loss, and what the model used."""

    priority = 'VERY_HIGH'  # before the queue moves on

    def __init__(self):
        self.losses, self.fill, self.used = [], [], []

    def before_train(self, runner):
        runner.model.head.predictor.register_forward_hook(self._note_dtype)

    def _note_dtype(self, module, inputs, outputs):
        self.dtype = outputs[0].dtype

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))
        self.fill.append(runner.model.queue.fill)
        self.used.append(runner.model.diagnostics is not None)


class Views(Hook):
    """Records the first view of each image in each epoch."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for sample, view in zip(data_batch['data_samples'], data_batch['inputs'][0]):
            self.seen.setdefault(sample.img_path, []).append(view)


class Interruption(Hook):
    """Ends the process, as it were, when the third epoch begins."""

    def before_train_epoch(self, runner):
        if runner.epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    'options',
    [
        {'model.channels_last': True},
        pytest.param({'model.compile_backbone': True}, marks=pytest.mark.slow),
        {'optim_wrapper.accumulative_counts': 2},
        {'optim_wrapper.type': 'BFloat16OptimWrapper'},
        {'optim_wrapper.optimizer.type': 'TIMMLars', 'optim_wrapper.optimizer.nesterov': True},
        {'model.queue.dtype': 'bfloat16'},
        {'model.queue.dtype': 'float16', 'optim_wrapper.type': 'BFloat16OptimWrapper'},
    ],
    ids=str,
)
def test_each_way_to_save_time_or_memory_is_one_option(digits, tmp_path, options):
    if 'model.compile_backbone' in options and not (which('c++') or which('g++')):
        pytest.skip('torch.compile needs a C++ compiler on a CPU')
    plain = small_run(digits, tmp_path, **{'train_cfg.max_epochs': 1})
    config = small_run(digits, tmp_path, **options, **{'train_cfg.max_epochs': 1})
    (_, expected), (runner, record) = train(plain), train(config)
    assert len(record.losses) == 6
    # Rounding, or a step that is still to come, may change later losses, not the first.
    assert record.losses[0] == pytest.approx(expected.losses[0], rel=0.02)
    weights = [p for p in runner.model.parameters() if p.ndim == 4]
    assert all(
        p.is_contiguous(memory_format=torch.channels_last) == config.model.channels_last
        for p in weights
        if p.size(1) > 1 and p.size(2) > 1
    )
    model, optimizer = runner.model, config.optim_wrapper.optimizer
    for network in (model.backbone, model.momentum_encoder[0]):
        assert (network._compiled_call_impl is not None) == config.model.get('compile_backbone', 0)
    half = config.optim_wrapper.type == 'BFloat16OptimWrapper'
    assert record.dtype == (torch.bfloat16 if half else torch.float32)
    assert str(model.queue.features.dtype) == f'torch.{config.model.queue.get("dtype", "float32")}'
    name = type(runner.optim_wrapper.optimizer).__name__
    assert name == ('Lars' if optimizer.type == 'TIMMLars' else optimizer.type)


def train(config, *hooks):
    runner = build_runner(config)
    record = Losses()
    for hook in (record, *hooks):
        runner.register_hook(hook)
    runner.train()
    return runner, record


@pytest.mark.parametrize('sync', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_resumed_run_continues_the_same_losses(digits, tmp_path, sync):
    options = {'model.queue.sync': sync, 'optim_wrapper.type': 'BFloat16OptimWrapper'}
    _, whole = train(small_run(digits, tmp_path / 'whole', **options))
    with pytest.raises(KeyboardInterrupt):
        train(small_run(digits, tmp_path / 'parts', **options), Interruption())
    # Workers and what was drawn before: neither may matter.
    workers = {
        'train_dataloader.num_workers': 2,
        'train_dataloader.persistent_workers': True,
    }
    runner, rest = train(small_run(digits, tmp_path / 'parts', resume=True, **options, **workers))
    assert len(whole.losses) == 18 and len(rest.losses) == 6
    assert rest.losses == whole.losses[12:]
    assert runner.model.queue.fill == 64


@pytest.fixture
def workers():
    """The processes that the test has started; other tests may have left some of a library's."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


def test_workers_end_with_the_training_and_others_take_their_place(digits, tmp_path, workers):
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    runner = build_runner(small_run(digits, tmp_path, **options))
    runner.register_hook(Interruption())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert not workers()
    assert len(list(runner.train_dataloader)) == 6
    assert len(workers()) == 2
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert not workers()


def test_a_hook_may_validate_within_an_epoch(digits, tmp_path, workers):
    class Validate(Hook):
        def after_train_iter(self, runner, batch_idx, **kwargs):
            if runner.iter == 2:
                with using_workers(runner, 'val'):
                    pass

    options = {'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': True}
    _, record = train(small_run(digits, tmp_path, **options), Validate())
    assert len(record.losses) == 18 and not workers()


def test_neighbors_come_in_after_the_warm_up(digits, tmp_path):
    config = small_run(digits, tmp_path, **{'custom_hooks.0.warmup_epochs': 2})
    _, record = train(config)
    assert record.used == [False] * 12 + [True] * 6
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert 'neighbor_similarity' not in lines[0]
    assert [line['queue_fill'] for line in lines[:5]] == [0, 0.25, 0.5, 0.75, 1]
    assert 0 < lines[-1]['positiveness_entropy'] <= torch.log(torch.tensor(4.0))
    assert 'neighbor_purity' not in lines[-1]


def test_under_gradient_accumulation_keys_enter_with_the_optimiser_step(digits, tmp_path):
    config = small_run(digits, tmp_path, **{'optim_wrapper.accumulative_counts': 3})
    _, record = train(config)
    assert record.fill[:9] == [0, 0, 0, 48, 48, 48, 64, 64, 64]


def test_momentum_encoder_moves_with_the_optimiser_step(digits, tmp_path):
    config = small_run(digits, tmp_path, **{'model.momentum_coefficient': 0.0})
    runner, _ = train(config)
    model = runner.model
    for a, b in zip(model.online_encoder.parameters(), model.momentum_encoder.parameters()):
        torch.testing.assert_close(a, b)


def test_the_coefficient_arrives_at_its_end_with_the_last_step(digits, tmp_path):
    config = small_run(digits, tmp_path, **{'model.end_momentum_coefficient': 1.0})
    config.model.momentum_coefficient = 0.5
    kept = []

    class Momentum(Hook):
        def before_train_iter(self, runner, *args, **kwargs):
            kept.append(copy.deepcopy(runner.model.momentum_encoder.state_dict()))

    runner, _ = train(config, Momentum())
    after = runner.model.momentum_encoder
    for step, equal in ((-2, False), (-1, True)):
        same = [torch.equal(kept[step][name], value) for name, value in after.named_parameters()]
        assert all(same) == equal


def test_an_image_has_other_views_in_each_epoch(digits, tmp_path):
    views = Views()
    train(small_run(digits, tmp_path, **{'train_cfg.max_epochs': 2}), views)
    assert len(views.seen) == 96
    for first, second in views.seen.values():
        assert not torch.equal(first, second)


def test_loops_that_count_iterations_have_no_warm_up_and_random_views(digits, tmp_path):
    def config(**options):
        config = small_run(digits, tmp_path, **counted, **options)
        config.train_cfg = dict(by_epoch=False, max_iters=3)
        return config

    counted = {
        'param_scheduler.by_epoch': False,
        'param_scheduler.convert_to_iter_based': False,
        'train_dataloader.sampler.type': 'InfiniteSampler',
        'default_hooks.checkpoint.by_epoch': False,
    }
    with pytest.raises(ValueError, match='warmup_epochs=2 counts epochs'):
        train(config(**{'custom_hooks.0.warmup_epochs': 2}))
    runner, record = train(config())
    assert len(record.losses) == 3 and record.used == [False, True, True]
    dataset = runner.train_dataloader.dataset
    assert not torch.equal(dataset[0]['inputs'][0], dataset[0]['inputs'][0])


class NeighborsOfAStep(Hook):
    """Works out what each step's log line should say of the neighbours that it used."""

    priority = 'VERY_HIGH'  # before the queue moves on

    def before_train(self, runner):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.model.diagnostics is None:
            return
        neighbors, queue = runner.model.diagnostics.neighbors, runner.model.queue
        same, similarity = [], []
        for sample, index, cosine, valid in zip(data_batch['data_samples'], *neighbors):
            same += [queue.labels[i] == sample.gt_label for i in index[valid]]
            similarity += cosine[valid].tolist()
        self.values.append((sum(map(int, same)) / len(same), sum(similarity) / len(similarity)))


def test_purity_is_logged_where_labels_exist(digits, tmp_path):
    config = small_run(
        digits,
        tmp_path,
        **{
            'train_dataloader.dataset.data_root': str(digits / 'labelled' / 'train'),
            'train_dataloader.dataset.with_label': True,
        },
    )
    expected = NeighborsOfAStep()
    train(config, expected)
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = [(line['neighbor_purity'], line['neighbor_similarity']) for line in lines[1:]]
    assert len({purity for purity, _ in logged}) > 1
    np.testing.assert_allclose(logged, expected.values, rtol=1e-5)


def test_a_short_last_batch_and_a_long_set_work(digits, tmp_path):
    config = small_run(
        digits,
        tmp_path,
        **{
            'train_dataloader.batch_size': 36,  # 96 = 36 + 36 + 24
            'train_dataloader.drop_last': False,
            'model.queue.length': 1000,
        },
    )
    runner, record = train(config)
    assert runner.model.queue.fill == 3 * 96
    assert torch.isfinite(torch.tensor(record.losses)).all()
    queue = runner.model.queue
    assert sorted(queue.ids[:96].tolist()) == sorted(queue.ids[96:192].tolist())


def test_a_last_batch_of_one_image_is_refused_before_training(digits, tmp_path):
    options = {'train_dataloader.dataset.indices': 33, 'train_dataloader.drop_last': False}
    with pytest.raises(ValueError, match=r'set train_dataloader\.drop_last=True'):
        train(small_run(digits, tmp_path, **options))


def test_labels_never_reach_the_loss(digits, tmp_path):
    folder = {'train_dataloader.dataset.data_root': str(digits / 'labelled' / 'train')}
    labels = {'train_dataloader.dataset.with_label': True}
    _, without = train(small_run(digits, tmp_path / 'a', **folder))
    _, with_labels = train(small_run(digits, tmp_path / 'b', **folder, **labels))
    assert without.losses == with_labels.losses


def test_a_corrupt_image_is_named(digits, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for number in range(16):
        source = digits / 'unlabelled' / f'{number:05d}.png'
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / '00003.png').write_bytes(b'not a picture')
    config = small_run(digits, tmp_path / 'run')
    config.train_dataloader.dataset.data_root = str(folder)
    with pytest.raises(Exception, match=r'00003\.png'):
        train(config)


def test_an_empty_folder_is_named(digits, tmp_path):
    (tmp_path / 'nothing').mkdir()
    config = small_run(digits, tmp_path / 'run')
    config.train_dataloader.dataset.data_root = str(tmp_path / 'nothing')
    with pytest.raises(RuntimeError, match='nothing'):
        train(config)


def test_runs_that_begin_in_the_same_second_share_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 1e9)
    one, other = (build_runner(small_run(digits, tmp_path / name)) for name in ('one', 'other'))
    assert one.visualizer is not other.visualizer
    assert one.message_hub is not other.message_hub
    assert one.logger is not other.logger
