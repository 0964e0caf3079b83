"""Files that are no checkpoints of torch are named as what they are."""

import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import torchvision

from mmsnclr.checkpoints import Stored


def write_zip(path, name):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(name, b'')


def write_tar(path, mode='w'):
    with tarfile.open(path, mode) as archive:
        archive.add(__file__, 'checkpoint.pth')


def write_onnx(path):
    onnx = pytest.importorskip('onnx')
    graph = onnx.helper.make_graph([], 'graph', [], [])
    onnx.save(onnx.helper.make_model(graph), path)


LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'


@pytest.mark.parametrize(
    ('name', 'write', 'words'),
    [
        ('empty.pth', lambda path: path.touch(), 'is empty, .*: copy or download it again'),
        ('lfs.safetensors', lambda path: path.write_bytes(LFS), 'a pointer of git-lfs .*lfs pull'),
        (
            'page.pth',
            lambda path: path.write_text('\n<!DOCTYPE html><title>404'),
            'a text as a failed download leaves it.*download the file again',
        ),
        ('error.pth', lambda path: path.write_text('{"error": "denied"}'), 'a failed download'),
        (
            'keras.h5',
            lambda path: path.write_bytes(b'\x89HDF\r\n\x1a\n0'),
            'HDF5 file',
        ),
        ('model.keras', lambda path: write_zip(path, 'model.weights.h5'), 'a model of Keras'),
        ('graph.pb', lambda path: path.write_bytes(b'\n\x10'), 'a file of TensorFlow'),
        ('vit.npz', lambda path: np.savez(path, a=np.ones(2)), 'an archive of NumPy, as of JAX'),
        ('graph.onnx', write_onnx, r'an ONNX graph: .*save torch\.save\(model\.state_dict'),
        ('a.zip', lambda path: write_zip(path, 'checkpoint.pth'), 'an archive: unpack it'),
        ('a.pth.tar', write_tar, 'an archive: unpack it'),
        ('a.tgz', lambda path: write_tar(path, 'w:gz'), 'an archive: unpack it'),
        (
            'detectron2.pkl',
            lambda path: path.write_bytes(pickle.dumps(dict(model=dict(a=np.ones(2))))),
            'a pickle that torch did not write, as of Detectron2',
        ),
        (
            'script.pt',
            lambda path: torch.jit.save(torch.jit.script(torch.nn.ReLU()), path),
            'a TorchScript program, which would run code: .*state_dict',
        ),
        (
            'program.pt2',
            lambda path: torch.export.save(
                torch.export.export(torch.nn.ReLU(), (torch.ones(1),)), path
            ),
            r'a program of torch\.export',
        ),
        (
            'whole.pth',
            lambda path: torch.save(torchvision.models.resnet18(), path),
            r'whole torchvision\.models\.resnet\.ResNet.*Have its state_dict saved.*ONLY_LOAD=1',
        ),
    ],
)
def test_files_of_others_are_refused_in_words(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f'{name} .*{words}'):
        Stored.read(tmp_path / name)


@pytest.mark.parametrize('settings', [{}, dict(_use_new_zipfile_serialization=False)])
def test_what_torch_wrote_is_read(tmp_path, settings):
    torch.save(dict(a=torch.ones(2)), tmp_path / 'a.pth.tar', **settings)
    assert Stored.read(tmp_path / 'a.pth.tar').weights.keys() == {'a'}


def test_a_length_that_looks_like_json_is_none(tmp_path):
    """The first bytes of safetensors are a number, here the text {" and zeros."""
    header = json.dumps(dict(a=dict(dtype='F32', shape=[1], data_offsets=[0, 4])))
    length = int.from_bytes(b'{"', 'little')
    content = length.to_bytes(8, 'little') + header.ljust(length).encode() + bytes(4)
    (tmp_path / 'a.safetensors').write_bytes(content)
    assert Stored.read(tmp_path / 'a.safetensors').weights.keys() == {'a'}


def test_a_whole_model_that_the_user_trusts_is_read(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    torch.save(dict(model=model), tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match=r'holds a torch\.nn\.modules\.linear\.Linear'):
        Stored.read(tmp_path / 'whole.pth')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert torch.equal(Stored.read(tmp_path / 'whole.pth').weights['weight'], model.weight)
