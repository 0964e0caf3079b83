"""Files and folders are written by one process, whole or not at all."""

import fcntl
import os
import resource
import signal

import pytest
import torch

from mmsnclr.api.classify import classify
from mmsnclr.api.detect import detect
from mmsnclr.api.embed import embed
from mmsnclr.api.evaluate import evaluate
from mmsnclr.api.predict import predict
from mmsnclr.api.pretrain import pretrain
from mmsnclr.checkpoints import replacing, sole_writer, write_backbone, write_text, writing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'a'
    path.write_text('before')
    with pytest.raises(KeyError), replacing(str(path)) as name:
        (tmp_path / name).write_text('half')
        raise KeyError
    assert [file.read_text() for file in tmp_path.iterdir()] == ['before']
    write_text(path, 'after: \udcff')  # as a name of a file may be
    assert [file.read_text() for file in tmp_path.iterdir()] == ['after: \\udcff']


@pytest.fixture
def small_files():
    """Files of a kilobyte at most, as on a disk that is full."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures('small_files')
def test_weights_on_a_full_disk_are_an_error_of_the_system(tmp_path):
    checkpoint = dict(state_dict={'backbone.weight': torch.ones(1000)}, meta={})
    with pytest.raises(OSError, match='File too large'):
        write_backbone(checkpoint, 'epoch_1.pth', str(tmp_path / 'backbone.pth'))
    assert not list(tmp_path.iterdir())


@sole_writer
def verb(out, fails=False):
    assert out.is_dir()
    if fails:
        raise KeyError
    (out / 'result').touch()


def test_a_folder_that_stays_empty_is_removed_unless_it_was_there(tmp_path):
    for folder in (tmp_path / 'a', tmp_path):
        with pytest.raises(KeyError):
            verb(folder, fails=True)
    assert not (tmp_path / 'a').exists() and tmp_path.exists()
    verb(out=tmp_path / 'a')
    verb(tmp_path / 'a')  # after it, not beside it
    assert (tmp_path / 'a' / 'result').exists()


@pytest.mark.parametrize('name', ['file', 'file/out'])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, name):
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match=f"out='{tmp_path / name}' is or is in a file"):
        verb(tmp_path / name)


VERBS = {
    pretrain: dict(images='photos'),
    classify: dict(backbone='random', images='photos'),
    detect: dict(backbone='random', train_json='set.json', images='photos'),
    evaluate: dict(checkpoints=['random'], images='photos'),
    embed: dict(checkpoint='snclr.pth', images=['photos'], csv=True),
    predict: dict(checkpoint='snclr.pth', images=['photos']),
}


@pytest.mark.parametrize(
    ('verb', 'name', 'file', 'options'),
    [
        (pretrain, 'images', 'images.txt', {}),
        (pretrain, 'labels', 'labels.csv', dict(resume=True)),
        (pretrain, 'init', 'init/backbone.pth', {}),
        (classify, 'images', 'train.txt', dict(resume=True)),
        (classify, 'labels', 'labels.csv', dict(seeds=2, resume=True)),
        (classify, 'val', 'results.csv', dict(fractions=[5])),
        (classify, 'compare', 'init/pretrained.pth', {}),
        (detect, 'train_json', 'train.json', {}),
        (detect, 'val_json', 'val.json', {}),
        (detect, 'train_json', 'val.json', dict(seeds=2)),
        (evaluate, 'images', 'evaluation.csv', {}),
        (embed, 'labels', 'features.csv', {}),
        (predict, 'images', 'left_out.csv', {}),
    ],
)
def test_what_is_given_is_not_written_over(tmp_path, monkeypatch, verb, name, file, options):
    monkeypatch.chdir(tmp_path)
    for folder in ('photos', 'init'):
        (tmp_path / folder).mkdir()
    (tmp_path / file).write_text('given')
    with pytest.raises(ValueError, match=f"{name}='.*{file}' would be written over: .* out='"):
        verb(**VERBS[verb] | options | {name: file}, out='.')
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')}
    assert left == {'photos', 'init', file} and (tmp_path / file).read_text() == 'given'


@pytest.mark.parametrize('of', [pretrain, detect, classify, predict])
def test_a_folder_that_another_process_writes_is_refused(tmp_path, monkeypatch, of):
    monkeypatch.setattr(writing, '_PATIENCE', 0)
    arguments = dict(backbone='random', images=tmp_path, train_json=tmp_path, checkpoint=tmp_path)
    names = of.__wrapped__.__code__.co_varnames[: of.__wrapped__.__code__.co_argcount]
    arguments = {name: value for name, value in arguments.items() if name in names}
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=f"out='{tmp_path}' is being written by another process"):
        of(out=tmp_path, **arguments)
    os.close(other)
    with pytest.raises((ValueError, OSError), match=r'^(?!.*by another process)'):
        of(out=tmp_path, **arguments)
