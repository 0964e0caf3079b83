"""Objects found in images by a trained detector."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mmsnclr.api.predict import predict
from mmsnclr.cli import main


def test_predictions_have_file_names_and_are_drawn(run, scenes, tmp_path, capsys):
    detection, *_ = run
    folder = tmp_path / 'images'
    (folder / 'sub').mkdir(parents=True)
    pixels = Image.open(scenes / 'val/00000.png')
    pixels.save(folder / 'sub/a.png')
    pixels.resize((90, 60)).save(folder / 'b.jpg')
    (folder / 'broken.png').write_bytes(b'nothing')
    (folder / 'empty.jpg').touch()
    Image.new('RGB', (3000, 10)).save(folder / 'narrow.png')  # of no height at the detector's size
    (folder / 'gone.png').symlink_to('nowhere')
    found = predict(detection.checkpoint, str(folder), tmp_path / 'found', threshold=0)
    said = capsys.readouterr().out.splitlines()[1:]  # below the progress bar's label
    names = ('broken.png', 'empty.jpg', 'gone.png', 'narrow.png')
    broken = ', '.join(str(folder / name) for name in names)
    left_out = tmp_path / 'found/left_out.csv'
    assert said[0] == f'4 of 6 images cannot be read and were left out, see {left_out}: {broken}'
    reasons = left_out.read_text().splitlines()
    assert reasons[0] == 'path,reason' and f'{folder / "empty.jpg"},' in reasons[2]
    assert said[1].startswith(f'{len(found)} objects with a score of 0 or more, in 2 of 6 images')
    assert json.loads((tmp_path / 'found/predictions.json').read_text()) == found
    assert {(d['image_id'], d['file_name']) for d in found} == {(0, 'b.jpg'), (5, 'sub/a.png')}
    assert all(d['category'] == '0123456789'[d['category_id'] - 1] for d in found)
    assert {tuple(d['segmentation']['size']) for d in found} == {(60, 90), (128, 128)}
    assert Image.open(tmp_path / 'found/pictures/sub/a.png.jpg').size == (128, 128)

    arguments = ['predict', str(detection.checkpoint), str(folder / 'b.jpg'), '--threshold', '1']
    result = CliRunner().invoke(main, [*arguments, '--out', str(tmp_path / 'none')])
    assert result.exit_code == 0, result.output
    assert '0 objects with a score of 1.0 or more, in 0 of 1 images' in result.stdout
    assert 'A lower --threshold' in result.stdout
    assert json.loads((tmp_path / 'none/predictions.json').read_text()) == []


def test_a_picture_that_cannot_be_written_is_not_taken_for_an_unreadable_image(
    run, scenes, tmp_path
):
    (tmp_path / 'pictures').touch()
    with pytest.raises(FileExistsError, match='pictures'):
        predict(run[0].checkpoint, sorted((scenes / 'val').iterdir())[:2], tmp_path)
    assert not (tmp_path / 'left_out.csv').exists()


def as_before(checkpoint, path):
    """The same detector with the loader that the first versions used."""
    stored = torch.load(checkpoint, weights_only=False)
    assert "type='LoadAnyImage'" in stored['meta']['cfg']
    stored['meta']['cfg'] = stored['meta']['cfg'].replace('LoadAnyImage', 'LoadImageFromFile')
    torch.save(stored, path)
    return path


def test_truncated_images_are_left_out_by_either_loader(run, scenes, tmp_path, capsys):
    folder = tmp_path / 'images'
    folder.mkdir()
    pixels = Image.open(scenes / 'val/00000.png').resize((300, 200))
    pixels.save(folder / 'whole.png')
    (folder / 'cut.png').write_bytes((folder / 'whole.png').read_bytes()[:-2000])
    before = as_before(run[0].checkpoint, tmp_path / 'before.pth')
    for number, checkpoint in enumerate((run[0].checkpoint, before)):
        out = tmp_path / str(number)
        found = predict(checkpoint, folder, out, threshold=0)
        assert {d['file_name'] for d in found} == {'whole.png'}
        said = capsys.readouterr().out
        assert '1 of 2 images cannot be read and were left out' in said
        assert '1 images are more than 2 times as large as the 64 pixels' in said
        reason = (out / 'left_out.csv').read_text().splitlines()[1]
        assert reason.startswith(f'{folder / "cut.png"},')
        assert checkpoint == before or reason.endswith('image file is truncated')


def test_more_than_8_bits_are_seen_as_8_by_the_detectors_loader(run, scenes, tmp_path):
    values = np.asarray(Image.open(scenes / 'val/00000.png').convert('L'))
    (tmp_path / 'images').mkdir()
    Image.fromarray(values).save(tmp_path / 'images/a.png')
    Image.fromarray(values.astype(np.uint16) << 4).save(tmp_path / 'images/b.png')  # 12 bits

    def scores(checkpoint, name):
        found = predict(checkpoint, tmp_path / 'images', tmp_path / name, threshold=0)
        return [[d['score'] for d in found if d['image_id'] == number] for number in (0, 1)]

    one, two = scores(run[0].checkpoint, 'now')
    assert one == two and one
    one, two = scores(as_before(run[0].checkpoint, tmp_path / 'before.pth'), 'before')
    assert one != two


def test_images_are_predicted_in_batches_as_alone(run, scenes, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'nothing')
    images = [*sorted((scenes / 'val').iterdir())[:2]]
    Image.open(images[0]).resize((64, 128)).save(tmp_path / 'narrow.png')
    images[1:1] = [tmp_path / 'broken.png', tmp_path / 'narrow.png']
    alone, together = (
        predict(run[0].checkpoint, images, tmp_path / f'{batch}', 0, batch=batch)
        for batch in (1, 4)
    )
    for key in ('image_id', 'file_name', 'category_id', 'segmentation'):
        assert [d[key] for d in alone] == [d[key] for d in together]
    for key in ('score', 'bbox'):
        expected = np.array([d[key] for d in alone])
        assert np.allclose([d[key] for d in together], expected, rtol=1e-4, atol=1e-4)


def test_the_threshold_replaces_the_detectors_own(run, scenes, tmp_path):
    stored = torch.load(run[0].checkpoint, weights_only=False)
    assert 'score_thr=0.05' in stored['meta']['cfg']
    stored['meta']['cfg'] = stored['meta']['cfg'].replace('score_thr=0.05', 'score_thr=0.99')
    torch.save(stored, tmp_path / 'strict.pth')
    assert predict(tmp_path / 'strict.pth', scenes / 'val/00000.png', tmp_path, threshold=0)


def test_the_folder_of_a_detection_stands_for_its_detector(run, scenes, tmp_path):
    image, (detection, out, _) = scenes / 'val/00000.png', run
    found = [predict(x, image, tmp_path / str(i), 0) for i, x in enumerate((detection[0], out))]
    assert found[0] == found[1] != []
    with pytest.raises(FileNotFoundError, match='no checkpoint in'):
        predict(scenes, image, tmp_path / 'other')


def test_predictions_of_a_json_have_its_ids(run, scenes, tmp_path):
    truth = json.loads((scenes / 'val.json').read_text())
    for image, number in zip(truth['images'], ('x', 7, 3.0, 2**63)):
        image['id'] = number
    (tmp_path / 'val.json').write_text(json.dumps(truth))
    arguments = ['predict', str(run[0].checkpoint), str(tmp_path / 'val.json'), '--threshold', '0']
    arguments += ['--image-root', str(scenes / 'val'), '--out', str(tmp_path / 'found')]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / 'found/predictions.json').read_text())
    of = {image['file_name']: image['id'] for image in truth['images']}
    assert {(d['file_name'], d['image_id']) for d in found} == set(of.items())
    sources = [tmp_path / 'val.json', scenes / 'train']
    both = predict(run[0].checkpoint, sources, tmp_path / 'both', 0, scenes / 'val')
    assert {d['image_id'] for d in both} <= set(range(4 + 8))


def test_what_cannot_be_predicted_is_named(run, scenes, tmp_path):
    detection, out, _ = run
    used = tmp_path / 'used'
    used.mkdir()
    (used / 'predictions.json').touch()
    for arguments, error, message in (
        (
            (out.parent / 'snclr.pth', [scenes / 'val'], tmp_path),
            ValueError,
            'is neither a detector',
        ),
        ((tmp_path / 'none.pth', [scenes / 'val'], tmp_path), FileNotFoundError, 'none.pth'),
        ((detection.checkpoint, [tmp_path / 'none'], tmp_path), FileNotFoundError, 'no folder'),
        ((detection.checkpoint, [scenes / 'val'], tmp_path, 30), ValueError, 'threshold=30'),
        ((detection.checkpoint, [scenes / 'val'], used), ValueError, 'holds predictions already'),
        ((detection.checkpoint, [scenes / 'val'], tmp_path, 0, None, 0), ValueError, 'batch=0'),
    ):
        with pytest.raises(error, match=message):
            predict(*arguments)
