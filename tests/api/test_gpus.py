"""`--gpus`: several processes by one option, here on the CPU and joined by gloo."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import LIMIT, ROOT, pretrained_resnet, run_tool, start_tool

from mmsnclr.api.detect import detect
from mmsnclr.api.pretrain import pretrain
from mmsnclr.datasets.digits import write_digits
from mmsnclr.engine.hooks.preemption import PREEMPTED

GROUPS = dict(type='GN', num_groups=4)
# Without BN, whose statistics would be those of a process.
SMALL = {
    'model.channels_last': False,  # where rounding depends on the images of a process
    'model.backbone.stem_channels': 16,
    'model.backbone.base_channels': 16,
    'model.backbone.norm_cfg': GROUPS,
    'model.neck.in_channels': 128,
    'model.neck.hid_channels': 32,
    'model.neck.norm_cfg': GROUPS,
    'model.head.predictor.hid_channels': 32,
    'model.head.predictor.norm_cfg': GROUPS,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
    'optim_wrapper.optimizer.lr': 0.01,  # a higher one draws rounding out
}
EPOCHS = 7  # of 3 steps


def run(images, out, **settings):
    settings = dict(backbone='r18', epochs=EPOCHS, batch=32, workers=0, amp='off') | settings
    return pretrain([images], out, cfg_options=SMALL, **settings)


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=False)['state_dict']


def assert_equal(*checkpoints):
    """The same set, and the same weights but for rounding.

    How far 21 steps draw that out hangs on the views, which are seeded by the folder's name. Two
    epochs less are more than 1e-4 away.
    """
    one, two = map(weights, checkpoints)
    assert one.keys() == two.keys()
    sets = [part['queue.ids'].sort() for part in (one, two)]  # in the order of the ranks
    assert torch.equal(sets[0].values, sets[1].values)
    features = [part['queue.features'][s.indices] for part, s in zip((one, two), sets)]
    torch.testing.assert_close(*features, rtol=0, atol=3e-4)
    assert distance(one, two) < 3e-5


def distance(one, two):
    """Between weights, relative to their norm."""
    one, two = (
        torch.cat([v.flatten() for k, v in part.items() if 'queue' not in k]) for part in (one, two)
    )
    return float((one - two).norm() / one.norm())


@pytest.fixture(scope='module')
def one(digits, tmp_path_factory):
    """The checkpoint of a run of one process."""
    return run(digits / 'unlabelled', tmp_path_factory.mktemp('one') / 'run', gpus=1)


@pytest.fixture(scope='module')
def two(digits, tmp_path_factory):
    """The checkpoint of a run of two processes."""
    return run(digits / 'unlabelled', tmp_path_factory.mktemp('two') / 'run', gpus=2)


def test_two_processes_train_as_one_with_the_joined_batch(one, two):
    assert distance(weights(one.with_name('epoch_5.pth')), weights(one)) > 1e-4
    assert torch.load(two, weights_only=False)['meta']['world_size'] == 2
    assert_equal(one, two)


@pytest.mark.parametrize(
    ('began', 'gpus'), [('two', 1), pytest.param('one', 2, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_with_another_number(began, gpus, one, request, tmp_path):
    out = Path(shutil.copytree(request.getfixturevalue(began).parent, tmp_path / 'run'))
    for epoch in (6, 7):
        (out / f'epoch_{epoch}.pth').unlink()
    last = pretrain([], out, gpus=gpus, resume=True)
    assert torch.load(last, weights_only=False)['meta']['world_size'] == gpus
    assert_equal(one, last)
    last.unlink()
    with pytest.raises(ValueError, match='batch=32 images do not divide among 3 processes'):
        pretrain([], out, gpus=3, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    'command', [('tools/train.py', '{}'), ('tools/dist_train.sh', '{}', '2')], ids=['one', 'two']
)
def test_the_tools_repeat_the_run_with_its_batch(command, two, tmp_path):
    command = [word.format(two.with_name('config.py')) for word in command]
    result = run_tool(*command, '--work-dir', str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert_equal(two, tmp_path / two.name)


def test_a_batch_that_does_not_divide_is_refused_before_images_are_read(digits, tmp_path):
    with pytest.raises(ValueError, match='batch=33 images do not divide among 2 processes'):
        run(digits / 'unlabelled', tmp_path / 'run', batch=33, gpus=2)
    assert not (tmp_path / 'run').exists()


@pytest.fixture
def command(digits, tmp_path):
    """What Python is to run for a long `mmsnclr pretrain` of two processes."""
    command = ['-m', 'mmsnclr', 'pretrain', digits / 'unlabelled', '--out', tmp_path / 'run']
    command += ['--gpus', 2, '--backbone', 'r18', '--epochs', 1000, '--batch', 32, '--workers', 0]
    settings = {key: value for key, value in SMALL.items() if not isinstance(value, dict)}
    return [*map(str, command), *(f'--cfg-options={k}={v}' for k, v in settings.items())]


def wait_for_steps(printed, is_alive):
    """Wait until both processes train, as their log tells."""
    end = time.monotonic() + LIMIT
    while not (printed.exists() and re.search(r'Epoch\(train\) +\[2\]', printed.read_text())):
        assert is_alive() and time.monotonic() < end, printed.read_text()
        time.sleep(0.2)


def test_sigterm_leaves_a_checkpoint_and_says_so_once(command, tmp_path):
    printed = tmp_path / 'printed.txt'
    process = start_tool(command, ROOT, dict(OMP_NUM_THREADS='1'), [printed] * 2)
    try:
        wait_for_steps(printed, process.is_alive)
        process.terminate()
        process.join(LIMIT)
    finally:
        process.kill()
    said = printed.read_text()
    assert process.exitcode == PREEMPTED, said
    (path,) = (tmp_path / 'run').glob('iter_*.pth')
    assert said.count('came: stopped after iteration') == 1
    assert 'continue with: mmsnclr pretrain' in said and 'Traceback' not in said
    assert said.count('[1][1/3]') == 1
    assert 'Gloo' not in said
    assert re.search(r'tools/dist_train\.sh \S+/run/config\.py 4', said)
    state = torch.load(path, weights_only=False)['meta']
    assert path.name == f'iter_{state["iter"]}.pth'


def test_a_killed_rank_is_named(command, tmp_path):
    printed = tmp_path / 'printed.txt'
    process = start_tool(command, ROOT, dict(OMP_NUM_THREADS='1'), [printed] * 2)
    try:
        wait_for_steps(printed, process.is_alive)
        os.kill(max(children(process.pid)), signal.SIGKILL)
        process.join(LIMIT)
    finally:
        process.kill()
    said = printed.read_text()
    assert process.exitcode == 1
    # How it ended is not known where the end of the other, which it took along, is seen first.
    assert len(re.findall(r'Error: rank 1 .*(by SIGKILL|died) and gave no reason', said)) == 1, said
    assert 'Traceback' not in said and 'FAILED' not in said


def children(parent):
    """Ids of the processes that another has started."""
    for path in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int((path / 'stat').read_text().rpartition(')')[2].split()[1]) == parent:
                yield int(path.name)


@pytest.fixture
def detection(scenes, tmp_path):
    """Arguments of a detection of a few steps, validated on three images."""
    val = json.loads((scenes / 'val.json').read_text())
    val['images'] = val['images'][:3]
    known = {image['id'] for image in val['images']}
    val['annotations'] = [a for a in val['annotations'] if a['image_id'] in known]
    (tmp_path / 'val.json').write_text(json.dumps(val))
    return dict(
        train_json=scenes / 'train.json',
        images=scenes / 'train',
        backbone='random',
        val_json=tmp_path / 'val.json',
        val_images=scenes / 'val',
        size=64,
        iterations=2,
        batch=4,
        workers=0,
    )


def test_a_detection_of_two_processes_is_gone_on_with_by_one(detection, tmp_path):
    out = tmp_path / 'detector'
    first = detect(**detection, out=out, gpus=2)
    assert torch.load(first.checkpoint, weights_only=False)['meta']['world_size'] == 2
    files = sorted(out.rglob('predictions.*.json'))
    found = [json.loads(path.read_text()) for path in files]
    assert [path.name for path in files] == ['predictions.bbox.json', 'predictions.segm.json']
    for path in files:
        path.unlink()  # as if the validation had been interrupted
    again = detect(**(detection | dict(batch=None)), out=out, gpus=1, resume=True)
    for path, before in zip(files, found):
        # Each image was looked at once, also where two processes share three.
        kept = [[p['image_id'] for p in part] for part in (json.loads(path.read_text()), before)]
        assert sorted(kept[0]) == sorted(kept[1])
    for kind, result in again.results['random'].items():
        assert result.ap == pytest.approx(first.results['random'][kind].ap, abs=0.01)
    with pytest.raises(ValueError, match='batch=4 images do not divide among 3 processes'):
        detect(**(detection | dict(batch=None)), out=out, gpus=3, resume=True)


@pytest.mark.slow
def test_two_processes_detect_as_well_as_one(tmp_path):
    scenes = write_digits(tmp_path, unlabelled=0, labelled=(0, 0), scenes=(200, 40)) / 'scenes'
    ap50 = [
        detect(
            scenes / 'train.json',
            scenes / 'train',
            pretrained_resnet(tmp_path / 'snclr.pth'),
            tmp_path / f'detector{gpus}',
            val_json=scenes / 'val.json',
            val_images=scenes / 'val',
            iterations=300,
            lr=0.02,
            flip=False,
            workers=0,
            gpus=gpus,
        )
        .results['pretrained']['bbox']
        .ap50
        for gpus in (1, 2)
    ]
    assert min(ap50) > 20 and abs(ap50[0] - ap50[1]) < 10, ap50
