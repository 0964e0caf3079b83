"""Images in tars are the images that one would extract from them."""

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import ROOT
from interruptions import Kill, assert_same_state, train
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS
from PIL import Image

from mmsnclr.api.embed import embed
from mmsnclr.api.pretrain import pretrain
from mmsnclr.cli import main
from mmsnclr.datasets import AugmentedViews, ImageFolder, ImageList, shards
from mmsnclr.datasets.decoding import read_image
from mmsnclr.datasets.image_id import image_id
from mmsnclr.datasets.listing import list_images, read_labels
from mmsnclr.datasets.scan import scan_into


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / '.cache'))
    monkeypatch.setattr(shards, '_shards', {})


def noise(seed, kind='PNG'):
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def extract(path):
    """Put what is in a tar into a folder of its name, and remove the tar."""
    with tarfile.open(path) as tar:
        tar.extractall(path.with_suffix(''))
    path.unlink()


@pytest.fixture
def two(tmp_path):
    """Two tars, in which names are equal, beside a file."""
    long = f'{"n" * 150}.png'
    for number, tar in enumerate(('s-0.tar', 's.tar')):
        files = {
            f'./{c}/{i}.png': noise(20 * number + 10 * c + i) for c in range(2) for i in (0, 1)
        }
        write_tar(
            tmp_path / 'set' / tar, files | {long: noise(99 + number), '._0.png': b'', 'x': b''}
        )
    (tmp_path / 'set/s.png').write_bytes(noise(50))
    return tmp_path / 'set'


def view(path):
    transform = AugmentedViews([dict(size=32), dict(size=32, solarize_prob=1.0)])
    transform.set_epoch(3, 5)
    return np.stack(transform(dict(img_path=str(path)))['img'])


def test_tars_are_listed_and_seen_as_the_folders_that_they_are_extracted_to(two):
    in_tars = list_images(two)
    views, ids = [view(path) for path in in_tars], [image_id(dict(img_path=p)) for p in in_tars]
    assert len(set(ids)) == len(in_tars) == 11
    assert in_tars[0] == two / 's.tar/0/0.png'
    for tar in two.glob('*.tar'):
        extract(tar)
    files = list_images(two)
    assert files == [Path(str(path).replace('.tar', '')) for path in in_tars]
    assert ids == [image_id(dict(img_path=path)) for path in files]
    assert all(np.array_equal(old, view(path)) for old, path in zip(views, files))


def test_only_tars_without_images_are_of_another_kind(two, capsys):
    list_images(two)
    assert 'other kinds' not in capsys.readouterr().err
    write_tar(two / 'texts.tar', {'a.txt': b''})
    list_images(two)
    assert '1 files of other kinds are not looked at: 1 .tar without' in capsys.readouterr().err


def test_a_folder_may_be_named_like_a_tar(tmp_path):
    path = tmp_path / 'a.tar/b.png'
    path.parent.mkdir()
    path.write_bytes(noise(0))
    assert list_images(tmp_path) == [path]
    assert image_id(dict(img_path=path)) != image_id(dict(img_path=tmp_path / 'a/b.png'))
    assert read_image(path).shape == (48, 64, 3)


def test_lists_may_name_images_in_tars_and_tars(two, tmp_path):
    (tmp_path / 'some.txt').write_text('set/s.tar/1/0.png 7\nset/s.tar/0/1.png 8\n')
    assert list_images(tmp_path / 'some.txt') == [two / 's.tar/1/0.png', two / 's.tar/0/1.png']
    (tmp_path / 'tars.txt').write_text('set/s.tar\nset/s-0.tar\n')
    assert list_images(tmp_path / 'tars.txt') == list_images([two / 's.tar', two / 's-0.tar'])
    (tmp_path / 'gone.txt').write_text('set/s.tar/1/0.png\nset/s.tar/1/7.png\n')
    with pytest.raises(FileNotFoundError, match=r'1 are missing, the first .*s\.tar/1/7\.png'):
        list_images(tmp_path / 'gone.txt')


def test_an_index_is_used_again_until_the_tar_changes(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / 'a.tar', {'0.png': noise(0), '1.png': noise(1)})
    first = list_images(tar)
    before = read_image(first[1])
    with monkeypatch.context() as patch:
        patch.setattr(shards, '_shards', {})
        patch.setattr(tarfile, 'open', None)
        assert list_images(tar) == first
        assert np.array_equal(read_image(first[1]), before)
    write_tar(tar, {'a.cls': b'3', 'a.png': noise(5), '1.png': noise(2)})
    os.utime(tar, ns=(0, 0))
    assert list_images(tar) == [tar / '1.png', tar / 'a.png']
    assert not np.array_equal(read_image(first[1]), before)
    (kept,) = (tmp_path / '.cache/mmsnclr/shards').iterdir()
    kept.write_bytes(b'damaged')
    monkeypatch.setattr(shards, '_shards', {})
    assert list_images(tar) == [tar / '1.png', tar / 'a.png']


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: data[:2500], 'is no whole tar: unexpected end of data'),
        (lambda data: data[: len(data) // 2 // 512 * 512], 'is no whole tar'),
        (lambda data: data[: data.rindex(b'1.png')], 'is no whole tar: it has no end'),
        (
            lambda data: data.replace(b'1.png', b'1.pnG', 1),
            'is no whole tar: it is damaged, or another',
        ),
        (lambda data: data + data, 'is no whole tar: it is damaged, or another'),
        (lambda data: b'', 'is no whole tar: empty file'),
        (lambda data: b'no tar' * 200, 'is no whole tar'),
        (gzip.compress, 'is compressed, so that no image'),
    ],
)
def test_damaged_and_compressed_tars_are_refused_by_name(tmp_path, damage, message):
    tar = write_tar(tmp_path / 'a.tar', {'0.png': noise(0), '1.png': noise(1)})
    tar.write_bytes(damage(tar.read_bytes()))
    for source in (tar, tmp_path):
        with pytest.raises(ValueError, match=rf'a\.tar {message}'):
            list_images(source)


@pytest.mark.parametrize('name', ['a.tar.gz', 'a.tgz', 'a.tar.zst'])
def test_compressed_tars_are_refused_before_they_are_read(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r'is compressed.*plain \.tar'):
        list_images(tmp_path / name)
    (tmp_path / 'a.tar.jpg').touch()
    assert list_images(tmp_path) == [tmp_path / 'a.tar.jpg']


def test_a_tar_that_is_replaced_while_it_is_read_is_indexed_again(tmp_path):
    files = {f'{name}.png': noise(seed) for seed, name in enumerate('ab')}
    tar = write_tar(tmp_path / 'a.tar', files)
    first, second = (read_image(path) for path in list_images(tar))
    write_tar(tar, {'0.png': noise(7)} | files)  # into the same file
    assert np.array_equal(read_image(tar / 'a.png'), first)
    os.replace(write_tar(tmp_path / 'new.tar', dict(reversed(files.items()))), tar)
    shards._opened.cache_clear()  # as of a process that has not read it
    assert np.array_equal(read_image(tar / 'b.png'), second)


def test_a_file_with_holes_is_refused(tmp_path):
    with open(tmp_path / '0.png', 'wb') as file:
        file.write(noise(0))
        file.truncate(2**20)
    subprocess.run(['tar', '-Scf', 'a.tar', '0.png'], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match=r'0\.png has holes'):
        list_images(tmp_path / 'a.tar')


def test_the_scan_names_images_in_tars(tmp_path):
    images, out = tmp_path / 'images', tmp_path / 'out'
    out.mkdir()
    whole, cut = noise(0, 'JPEG'), noise(1, 'JPEG')
    write_tar(images / 'a.tar', {'0.jpg': whole, '1.jpg': cut[: len(cut) // 2], '2.jpg': noise(2)})
    write_tar(images / 'b.tar', {'0.jpg': whole, '1.jpg': noise(3)})
    scan = scan_into(out, [images], None, None, 32)
    assert [str(path.relative_to(images)) for path in scan.accepted] == [
        'a.tar/0.jpg',
        'a.tar/2.jpg',
        'b.tar/1.jpg',
    ]
    rows = (out / 'left_out.csv').read_text().splitlines()
    assert rows[1].startswith(f'{images}/a.tar/1.jpg,truncated')
    assert rows[2] == f'{images}/b.tar/0.jpg,duplicate of {images}/a.tar/0.jpg'
    assert len(ImageList(str(out / 'images.txt'), pipeline=[])) == 3


def test_labels_come_from_cls_files_or_folders_in_tars(tmp_path, two):
    samples = {f'{i}.{kind}': noise(i) for i in range(3) for kind in ('left.jpg', 'jpg')}
    write_tar(
        tmp_path / 'cls/0.tar', samples | {f'{i}.cls': f'{7 + i}\n'.encode() for i in range(3)}
    )
    images = list_images(tmp_path / 'cls')
    assert read_labels('cls', images) == ['7', '7', '8', '8', '9', '9']
    folder = ImageFolder(str(tmp_path), 'cls', labels='cls', pipeline=[])
    assert folder.get_gt_labels().tolist() == [7, 7, 8, 8, 9, 9]
    assert folder.metainfo['classes'] == tuple('0123456789')
    write_tar(
        tmp_path / 'cls/1.tar', {'10.png': noise(0), '10.cls': b'10', '2.png': b'', '2.cls': b'2'}
    )
    folder = ImageFolder(str(tmp_path), 'cls', labels='cls', pipeline=[])
    names = [folder.metainfo['classes'][number] for number in folder.get_gt_labels()]
    assert names == read_labels('cls', list_images(tmp_path / 'cls'))
    with pytest.raises(ValueError, match="labels='cls': 1 of the 7 images are in no tar"):
        read_labels('cls', [*images, two / 's.png'])

    nested = [two / f's{tar}.tar/{c}/0.png' for tar in ('', '-0') for c in (0, 1)]
    assert read_labels('folders', nested) == ['0', '1', '0', '1']
    for name in ('n01', 'n02'):
        write_tar(tmp_path / f'train/{name}.tar', {f'{name}_1.JPEG': noise(1)})
    folder = ImageFolder(str(tmp_path), 'train', pipeline=[])
    assert folder.metainfo['classes'] == ('n01', 'n02')


def test_few_files_are_open_however_many_tars_there_are(tmp_path):
    tars = [write_tar(tmp_path / f'{i}.tar', {'0.png': noise(0)}) for i in range(100)]
    before = len(os.listdir('/proc/self/fd'))
    images = list_images(tars)
    for _ in range(2):
        assert all(read_image(path).size for path in images)
    assert len(os.listdir('/proc/self/fd')) - before <= 64


def test_a_folder_is_the_parents_data_set_without_asking_for_each_file(digits, monkeypatch):
    root = os.path.relpath(digits / 'labelled')
    theirs = CustomDataset(root, 'train', pipeline=[])
    files = [theirs.get_data_info(number) for number in range(len(theirs))]
    (digits / 'some.txt').write_text('\n'.join(info['img_path'] for info in files))
    asked, stat = [], os.stat
    monkeypatch.setattr(os, 'stat', lambda path, **kw: asked.append(path) or stat(path, **kw))
    ours = ImageFolder(root, 'train', pipeline=[])
    listed = ImageList(str(digits / 'some.txt'), pipeline=[])
    assert not [path for path in asked if str(path).endswith('.png')]
    assert [ours.get_data_info(number) for number in range(len(ours))] == files
    assert len(listed) == len(files) and listed.missing == []
    assert ours.metainfo['classes'] == theirs.metainfo['classes']


def test_a_run_from_tars_is_resumed_exactly_and_equals_one_from_files(digits, tmp_path):
    """Workers read, of which each opens the tars by itself."""
    files = {path.name: path.read_bytes() for path in sorted((digits / 'unlabelled').iterdir())}
    images, names = tmp_path / 'images', list(files)
    for tar in range(3):
        part = {name: files[name] for name in names[32 * tar : 32 * tar + 32]}
        write_tar(images / f'{tar}.tar', part)
    options = {'train_dataloader.dataset.type': 'ImageFolder', 'train_cfg.max_epochs': 2}
    options |= {
        'train_dataloader.num_workers': 2,
        'train_dataloader.dataset.data_root': str(images),
    }
    train(digits, tmp_path / 'whole', **options)
    with pytest.raises(RuntimeError, match='an error of the training'):
        train(digits, tmp_path / 'parts', Kill(9, 'fail'), **options)
    train(digits, tmp_path / 'parts', resume=True, **options)
    for tar in images.glob('*.tar'):
        extract(tar)
    train(digits, tmp_path / 'files', **options)
    for run in ('parts', 'files'):
        assert_same_state(tmp_path / 'whole/iter_12.pth', tmp_path / run / 'iter_12.pth')


def test_recipes_read_imagenets_tars_as_its_files(tmp_path, monkeypatch):
    dataset = Config.fromfile(ROOT / 'configs/linear_r50_in1k.py').train_dataloader.dataset
    monkeypatch.chdir(tmp_path)
    tars = [Path(f'data/imagenet/train/n{number}.tar') for number in ('01', '02', '02-1')]
    for number, tar in enumerate(tars):
        write_tar(tar, {f'{tar.stem}_{i}.JPEG': noise(3 * number + i, 'JPEG') for i in (0, 1)})

    def found(dataset):
        infos = [dataset.get_data_info(number) for number in range(len(dataset))]
        return [(image_id(info), info['gt_label']) for info in infos]

    from_tars = DATASETS.build({**dataset, 'type': 'ImageFolder'})
    assert from_tars[5]['inputs'].shape == (3, 224, 224)
    there = found(from_tars)
    for tar in tars:
        extract(tar)
    three = dict(classes=('a', 'b', 'c'))  # theirs knows that there are 1,000
    assert there == found(DATASETS.build({**dataset, 'metainfo': three}))


def test_pretrain_takes_tars(digits, tmp_path):
    for part in ('train', 'val'):
        with tarfile.open(tmp_path / f'{part}.tar', 'w') as file:
            file.add(digits / 'labelled' / part, '.')
    sources = [tmp_path / 'train.tar', tmp_path / 'val.tar']
    options = dict(epochs=1, size=32, batch=16, workers=1, labels='folders')
    checkpoint = pretrain(sources, tmp_path / 'run', 'r18', **options)
    assert checkpoint.exists()
    listed = (tmp_path / 'run/images.txt').read_text().split()
    assert len(listed) == 90 and listed[-1].startswith(f'{sources[1]}/')
    assert not list((tmp_path / 'run').glob('unreadable*'))
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    assert 'purity' in log.read_text()


def test_verbs_take_tars(trained, digits, tmp_path):
    tar = tmp_path / 'a.tar'
    with tarfile.open(tar, 'w') as file:
        file.add(digits / 'labelled/val', '.')
    from_tar = np.load(embed(trained / 'epoch_2.pth', [tar], tmp_path / 'tar', 'folders').npz)
    files = digits / 'labelled/val'
    from_files = np.load(embed(trained / 'epoch_2.pth', [files], tmp_path / 'files', 'folders').npz)
    assert np.array_equal(from_tar['features'], from_files['features'])
    assert from_tar['labels'].tolist() == from_files['labels'].tolist()
    assert from_tar['paths'][0].startswith(f'{tar}/')
    command = ['neighbors', str(trained / 'epoch_2.pth'), str(tar), '--out', str(tmp_path)]
    result = CliRunner().invoke(main, [*command, '--queries', '2', '--labels', 'folders'])
    assert result.exit_code == 0, result.output
    assert (tmp_path / 'neighbors.html').stat().st_size > 10_000
