"""Images that look almost the same are found, and those that were seen before are counted."""

import csv
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from mmsnclr.datasets import leakage, near_duplicates
from mmsnclr.datasets.leakage import tell_of_leakage
from mmsnclr.datasets.near_duplicates import groups_of, near_pairs
from mmsnclr.datasets.scan import scan_into


def photograph(seed):
    """What has, like a photograph, less contrast the finer it is."""
    rng, image = np.random.default_rng(seed), np.zeros((180, 240, 3))
    for cells in (3, 6, 12, 24, 48):
        image += cv2.resize(rng.normal(0, 120 / cells, (cells, cells, 3)), (240, 180))
    return (image + 128).clip(0, 255).astype(np.uint8)


COPIES = dict(
    smaller=lambda image: cv2.resize(image, (120, 90), interpolation=cv2.INTER_AREA),
    recompressed=lambda image: cv2.imdecode(
        cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR
    ),
    grey=lambda image: cv2.merge([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)] * 3),
)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


def rows(path):
    with path.open(newline='') as file:
        return list(csv.reader(file))[1:]


def kinds(out):
    """How each listed image was seen before, by its name and that of the other."""
    listed = rows(out / 'leakage.csv')
    return {
        (path.rpartition('/')[2], how, other.rpartition('/')[2]) for path, how, other, _ in listed
    }


@pytest.fixture
def pretrained(tmp_path):
    """The checkpoint of a pretraining on eight photographs."""
    for seed in range(8):
        write(tmp_path / 'pictures' / f'{seed}.jpg', photograph(seed))
    (tmp_path / 'run').mkdir()
    scan_into(tmp_path / 'run', [tmp_path / 'pictures'], None, None, 32)
    return tmp_path / 'run' / 'backbone.pth'


@pytest.fixture
def val(tmp_path):
    """An image that is equal to one of these, one that is almost like another, and a new one."""
    equal = tmp_path / 'val' / 'equal.jpg'
    equal.parent.mkdir()
    equal.write_bytes((tmp_path / 'pictures' / '3.jpg').read_bytes())
    near = write(tmp_path / 'val' / 'near.png', COPIES['smaller'](photograph(5)))
    return [equal, near, write(tmp_path / 'val' / 'new.png', photograph(100))]


FOUND = {('equal.jpg', 'equal to', '3.jpg'), ('near.png', 'almost like', '5.jpg')}


@pytest.mark.parametrize('most', [10, 2**22])
def test_near_pairs_are_those_that_differ_in_up_to_4_bits(monkeypatch, most):
    monkeypatch.setattr(near_duplicates, '_MOST', most)
    rng = np.random.default_rng(0)
    one = rng.integers(1, 2**63, 300, dtype=np.uint64)
    other = one[:200].copy()
    for number in range(200):
        for bit in rng.permutation(64)[: number % 8].astype(np.uint64):
            other[number] ^= np.uint64(1) << bit
    differing = np.unpackbits((one[:, None] ^ other)[..., None].view(np.uint8), axis=-1).sum(-1)
    expected = np.nonzero(differing <= 4)
    assert len(expected[0]) == 125
    portions = list(near_pairs(one, other))
    assert max(part.shape[1] for part in portions) < 2 * most
    assert np.array_equal(np.unique(np.concatenate(portions, 1), axis=1), expected)


@pytest.mark.parametrize('most', [1, 2**22])
def test_groups_are_linked_and_what_has_no_look_is_in_none(monkeypatch, most):
    monkeypatch.setattr(near_duplicates, '_MOST', most)
    chain = [0b1, 0b1111, 0b1111111, 2**40 - 1, 0, 0, 0b1]
    assert [group.tolist() for group in groups_of(np.array(chain, np.uint64))] == [[0, 1, 2, 6]]


def test_deep_images_are_compared_though_they_use_few_of_the_values(tmp_path):
    for number, seed in enumerate((0, 0, 1)):
        deep = photograph(seed)[..., 0].astype(np.uint16) + 30000 + number
        write(tmp_path / 'pictures' / f'{number}.png', deep)
    scan_into(tmp_path, [tmp_path / 'pictures'], None, None, 32)
    listed = [path.rpartition('/')[2] for _, path in rows(tmp_path / 'near_duplicates.csv')]
    assert listed == ['0.png', '1.png']


def test_a_scan_lists_near_duplicates_and_leaves_none_out(tmp_path, capsys):
    folder = tmp_path / 'pictures'
    for seed in range(12):
        write(folder / f'{seed:02d}.png', photograph(seed))
    for name, copy in COPIES.items():
        write(folder / f'00_{name}.png', copy(photograph(0)))
    write(folder / '07_mirrored.png', photograph(7)[:, ::-1])
    write(folder / '08_smaller.jpg', COPIES['smaller'](photograph(8)))
    scan = scan_into(tmp_path, [folder], None, None, 32)
    assert len(scan.accepted) == 17 and not scan.left_out
    found = [
        (group, path.rpartition('/')[2]) for group, path in rows(tmp_path / 'near_duplicates.csv')
    ]
    first = ['00.png', *(f'00_{name}.png' for name in sorted(COPIES))]
    assert sorted(found) == [
        *(('1', name) for name in first),
        *(('2', name) for name in ('08.png', '08_smaller.jpg')),
    ]
    assert '6 look almost like another, in 2 groups' in capsys.readouterr().out


def test_what_was_pretrained_on_is_counted_also_after_it_is_gone(pretrained, val, tmp_path, capsys):
    (tmp_path / 'pictures').rename(tmp_path / 'elsewhere')
    text = tell_of_leakage(tmp_path, [], val, [str(pretrained), 'random'])
    assert text.splitlines()[0] == (
        f'Of 3 images to validate on, 1 are equal to images that {pretrained} was pretrained on, '
        'and 1 more look almost like one.'
    )
    assert text in capsys.readouterr().out and 'random' not in text
    assert kinds(tmp_path) == FOUND


def test_the_images_of_a_run_without_fingerprints_are_read_once(
    pretrained, val, tmp_path, monkeypatch
):
    read = Mock(wraps=leakage.fingerprint_images)
    monkeypatch.setattr(leakage, 'fingerprint_images', read)
    (pretrained.parent / 'fingerprints.npz').unlink()
    for _ in range(2):
        tell_of_leakage(tmp_path, [], val, [str(pretrained)])
        assert kinds(tmp_path) == FOUND
    assert sorted(len(call.args[0]) for call in read.call_args_list) == [3, 3, 8]


def test_images_that_cannot_be_read_any_more_are_said(pretrained, val, tmp_path):
    (pretrained.parent / 'fingerprints.npz').unlink()
    (tmp_path / 'pictures' / '0.jpg').unlink()
    text = tell_of_leakage(tmp_path, [], val, [str(pretrained.parent)])
    assert kinds(tmp_path) == FOUND and '1 of those cannot be read any more' in text
    assert not (pretrained.parent / 'fingerprints.npz').exists()  # it may be there again


def test_what_cannot_be_told_is_said(pretrained, val, tmp_path, monkeypatch):
    foreign = tmp_path / 'theirs.pth'
    with monkeypatch.context() as patch:
        patch.setattr(leakage, 'fingerprint_images', None)  # there is nothing to compare
        text = tell_of_leakage(tmp_path, [], val, [str(foreign)])
    assert text.startswith(f'Whether {foreign} was pretrained on images to validate on cannot be')
    (pretrained.parent / 'init').mkdir()
    text = tell_of_leakage(tmp_path, [], val, [str(pretrained)])
    assert f'What {pretrained} itself had started from is not looked at.' in text
    assert tell_of_leakage(tmp_path, [], val, ['random']) == ''


def test_what_is_learned_from_is_told_apart_and_grey_images_are_like_nothing(tmp_path):
    train = [
        write(tmp_path / 'train' / 'one.png', photograph(1)),
        write(tmp_path / 'train' / 'grey.png', np.full((64, 64, 3), 90, np.uint8)),
    ]
    val = [
        write(tmp_path / 'val' / 'one.jpg', photograph(1)),
        write(tmp_path / 'val' / 'grey.png', np.full((64, 64, 3), 120, np.uint8)),
    ]
    text = tell_of_leakage(tmp_path, train, val, [])
    assert text.startswith(
        'Of 2 images to validate on, 0 are equal to images to learn from, and 1 more look'
    )
    assert kinds(tmp_path) == {('one.jpg', 'almost like', 'one.png')}
