"""Objects found in images by a trained detector."""

import json

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
    assert said[0] == f'4 of 6 images cannot be read and were left out: {broken}'
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
    assert json.loads((tmp_path / 'none/predictions.json').read_text()) == []


def test_the_threshold_replaces_the_detectors_own(run, scenes, tmp_path):
    stored = torch.load(run[0].checkpoint, weights_only=False)
    assert 'score_thr=0.05' in stored['meta']['cfg']
    stored['meta']['cfg'] = stored['meta']['cfg'].replace('score_thr=0.05', 'score_thr=0.99')
    torch.save(stored, tmp_path / 'strict.pth')
    assert predict(tmp_path / 'strict.pth', scenes / 'val/00000.png', tmp_path, threshold=0)


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
        ((out.parent / 'snclr.pth', [scenes / 'val'], tmp_path), ValueError, 'is not a detector'),
        ((tmp_path / 'none.pth', [scenes / 'val'], tmp_path), FileNotFoundError, 'none.pth'),
        ((detection.checkpoint, [tmp_path / 'none'], tmp_path), FileNotFoundError, 'no folder'),
        ((detection.checkpoint, [scenes / 'val'], tmp_path, 30), ValueError, 'threshold=30'),
        ((detection.checkpoint, [scenes / 'val'], used), ValueError, 'holds predictions already'),
    ):
        with pytest.raises(error, match=message):
            predict(*arguments)
