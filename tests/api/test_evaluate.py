"""`mmsnclr evaluate`: checkpoints of any origin in one table."""

import csv
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmsnclr.api import import_checkpoint
from mmsnclr.api.embed import embed
from mmsnclr.api.evaluate import evaluate
from mmsnclr.api.neighbors import neighbors
from mmsnclr.cli import main
from mmsnclr.datasets.labelled import draw_part
from mmsnclr.datasets.listing import list_images
from mmsnclr.engine.run import read_encoder
from mmsnclr.evaluation import cache, representation
from mmsnclr.evaluation.encoder import Encoder
from mmsnclr.evaluation.representation import represent_images


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """Images decoded by this process from now on, and a cache that is empty."""
    paths, read_image = [], representation.read_image

    def counting(path, levels):
        paths.append(path)
        return read_image(path, levels)

    monkeypatch.setattr(representation, 'read_image', counting)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return paths


@pytest.fixture(scope='module')
def baseline(tmp_path_factory):
    """A checkpoint of mmpretrain's SimCLR, as its own runner saves it."""
    resnet = dict(type='ResNet', depth=18, stem_channels=16, base_channels=16)
    model = dict(
        type='SimCLR',
        backbone=resnet,
        neck=dict(type='NonLinearNeck', in_channels=128, hid_channels=8, out_channels=8),
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=dict(mean=[80.0] * 3, std=[40.0] * 3, bgr_to_rgb=True),
    )
    cfg = Config(dict(model=model)).pretty_text
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        weights = MODELS.build(model).state_dict()
    path = tmp_path_factory.mktemp('baseline') / 'epoch_1.pth'
    torch.save(dict(state_dict=weights, meta=dict(cfg=cfg)), path)
    return path


@pytest.fixture(scope='module')
def compared(trained, baseline, digits, tmp_path_factory):
    """An evaluation by the command line, and what it said."""
    out = tmp_path_factory.mktemp('compared')
    checkpoints = [str(trained), str(baseline), 'random']
    arguments = ['evaluate', *checkpoints, str(digits / 'labelled'), '--out', str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with (out / 'evaluation.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    return checkpoints, {(row['checkpoint'], row['classifier']): row for row in rows}, result, out


def test_one_table_has_all_checkpoints_and_says_what_is_left_out(compared, baseline):
    checkpoints, rows, result, out = compared
    columns = ('k-NN 20', 'linear', '1-shot')
    assert {key for key in rows if key[1] in columns} == {
        (c, k) for c in checkpoints for k in columns
    }
    markdown = (out / 'evaluation.md').read_text()
    assert markdown.splitlines()[0].startswith('|  | k-NN 20 | linear | 1-shot |')
    assert 'Top-1 accuracy in percent on 30 images, 60 others' in markdown
    assert '- k-NN 200 is left out: only 60 images are learned from' in markdown
    assert f'Whether {baseline} was pretrained on images to validate on cannot be told' in markdown
    assert markdown in result.output and f'wrote {out / "evaluation.csv"}' in result.output
    assert f'{checkpoints[0]} is ahead by, in points' in markdown
    assert rows[checkpoints[0], 'linear']['difference'] == ''
    one, other = (float(rows[c, 'linear']['accuracy']) for c in checkpoints[:2])
    assert float(rows[checkpoints[1], 'linear']['difference']) == pytest.approx(
        one - other, abs=0.01
    )


def test_images_on_both_sides_are_counted(trained, digits, tmp_path):
    photos = Path(shutil.copytree(digits / 'labelled/val', tmp_path / 'photos'))
    for path in photos.rglob('*.png'):
        shutil.copy(path, path.with_name(f'again_{path.name}'))
    found = evaluate([trained], photos, out=tmp_path / 'out', workers=0)
    said = re.search(r'Of (\d+) images to validate on, (\d+) are equal', found.markdown.read_text())
    assert said and 0 < int(said[2]) <= int(said[1])


def test_the_random_network_has_residual_branches(trained):
    encoder = Encoder.random(read_encoder(trained), 0)
    assert all((layer.bn2.weight == 1).all() for layer in encoder.networks['features'].layer2)


def test_the_figures_are_scikit_learns_on_the_features_of_embed(
    compared, trained, digits, tmp_path
):
    checkpoints, rows, *_ = compared
    embed(trained / 'backbone.pth', [digits / 'labelled'], tmp_path, labels='folders')
    stored = np.load(tmp_path / 'features.npz')
    features, labels = stored['features'], stored['labels']
    tested = np.array(['/val/' in path for path in stored['paths']])
    nearest = KNeighborsClassifier(
        20, metric='cosine', algorithm='brute', weights=lambda d: np.exp(-d / 0.07)
    ).fit(features[~tested], labels[~tested])
    linear = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {'logisticregression__C': 10.0 ** np.arange(-4, 3)},
        cv=PredefinedSplit(np.where(draw_part(labels[~tested], 0.2, 0), 0, -1)),
    ).fit(features[~tested], labels[~tested])
    for name, model in (('k-NN 20', nearest), ('linear', linear)):
        expected = 100 * model.score(features[tested], labels[tested])
        assert float(rows[checkpoints[0], name]['accuracy']) == pytest.approx(expected, abs=1e-3)


def test_nothing_is_computed_twice(trained, digits, tmp_path, decoded):
    images, run = digits / 'labelled', trained / 'epoch_2.pth'
    one = evaluate([run], images, tmp_path / 'one', workers=0)
    assert sorted(decoded) == sorted(list_images(images))
    decoded.clear()
    # The backbone alone has the same weights, and other verbs the same features.
    both = evaluate([run, trained / 'backbone.pth'], images, tmp_path / 'both', workers=0)
    embed(run, [images], tmp_path / 'features', workers=0)
    assert not decoded
    first, second = both.scores.values()
    assert first == one.scores[str(run)]
    for kind, score in second.items():  # draws are the same for all checkpoints
        assert (score.difference, score[:4]) == ((0, 0, 0), first[kind][:4])
    for _ in range(2):  # by keys and projections, once
        neighbors(run, [images], tmp_path / 'look', queries=1, shown=1, workers=0)
    assert len(decoded) == 90


def test_what_has_changed_is_computed_again(trained, digits, tmp_path, decoded):
    images = tmp_path / 'images'
    shutil.copytree(digits / 'labelled/val', images)
    run, changed = read_encoder(trained / 'backbone.pth'), list_images(images)[0]
    before = represent_images(run, list_images(images), workers=0).parts['features']
    Image.new('RGB', (64, 64), 'red').save(changed)
    after = represent_images(run, list_images(images), workers=0).parts['features']
    assert len(decoded) == 60 and (before[0] != after[0]).any() and before[1:].equal(after[1:])
    with torch.no_grad():
        next(run.networks['features'].parameters()).mul_(2)
    represent_images(run, list_images(images), workers=0)
    represent_images(
        run._replace(sight=run.sight._replace(edge=32)), list_images(images), workers=0
    )
    assert len(decoded) == 120


def test_an_evaluation_that_was_ended_goes_on(
    trained, baseline, digits, tmp_path, decoded, monkeypatch
):
    module, calls = sys.modules['mmsnclr.api.evaluate'], []
    probe = module.probe

    def probing(*args):
        calls.append(args)
        if calls[limit:]:
            raise KeyboardInterrupt
        return probe(*args)

    monkeypatch.setattr(module, 'probe', probing)
    checkpoints, out = [trained / 'backbone.pth', baseline], tmp_path / 'out'
    limit = 1
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoints, digits / 'labelled', out, workers=0)
    # The first is in the table already, and neither its classifiers nor any features come again.
    assert str(checkpoints[0]) in (out / 'evaluation.md').read_text()
    decoded.clear()
    calls.clear()
    assert len(evaluate(checkpoints, digits / 'labelled', out, workers=0).scores) == 2
    assert (len(decoded), len(calls)) == (0, 1)


def test_workers_load_what_one_process_would(trained, digits, tmp_path, monkeypatch):
    paths, encoder = list_images(digits / 'unlabelled'), read_encoder(trained / 'backbone.pth')
    paths += list_images(digits / 'labelled')
    found = []
    for workers in (0, 2):
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / f'{workers}'))
        found.append(represent_images(encoder, paths, workers=workers).parts['features'])
    assert len(found[0]) == 186 and found[0].equal(found[1])


def test_the_cache_is_bounded_and_a_full_disk_is_said(decoded, monkeypatch, capsys):
    monkeypatch.setattr(cache, 'MOST', 3000)
    for name in 'abc':
        cache.remember(name, dict(rows=np.zeros(250)))  # 2,000 bytes and a head
    assert cache.recall('a') is None and cache.recall('b') is None
    assert (cache.recall('c')['rows'] == 0).all()
    (cache.cache_folder() / 'c.npz').write_bytes(b'damaged')
    assert cache.recall('c') is None
    monkeypatch.setenv('XDG_CACHE_HOME', '/dev/null')
    cache.remember('d', dict(rows=np.zeros(2)))
    assert 'results are not kept for the next time' in capsys.readouterr().err


def test_the_cache_is_shared_with_other_processes_and_the_index_of_tars(
    decoded, monkeypatch, capsys
):
    save, content, folder = np.savez, dict(rows=np.ones(250)), cache.cache_folder()

    def save_while_another_does(file, **content):
        monkeypatch.setattr(np, 'savez', save)
        cache.remember('a', content)
        save(file, **content)

    monkeypatch.setattr(np, 'savez', save_while_another_does)
    cache.remember('a', content)
    assert [path.name for path in folder.iterdir()] == ['a.npz']
    (folder / 'shards').mkdir()
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    monkeypatch.setattr(cache, 'MOST', 3000)
    cache.remember('b', content)
    assert sorted(path.name for path in folder.iterdir()) == ['b.npz', 'shards']
    assert not capsys.readouterr().err

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(os, 'utime', refuse)
    assert cache.recall('b') is not None  # in another's folder, too


def test_a_number_that_is_too_small_is_named(trained, digits):
    encoder, paths = read_encoder(trained / 'backbone.pth'), list_images(digits / 'unlabelled')
    for setting in ('max_images', 'workers'):
        with pytest.raises(ValueError, match=rf'{setting}=-1 must be at least'):
            represent_images(encoder, paths, **{setting: -1})


def test_a_foreign_backbone_is_compared_embedded_and_shown(digits, tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'theirs.pth')
    import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    for name in '12':
        shutil.copytree(digits / 'labelled/val' / name, tmp_path / 'images' / name)
    found = evaluate([tmp_path / 'ours.pth'], tmp_path / 'images', tmp_path / 'out')
    assert {'linear', '1-shot'} <= set(found.scores[str(tmp_path / 'ours.pth')])
    embedding = embed(tmp_path / 'ours.pth', [tmp_path / 'images'], tmp_path / 'features')
    stored = np.load(embedding.npz)
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(torch.load(tmp_path / 'theirs.pth'))
    theirs.fc = torch.nn.Identity()
    image = Image.open(stored['paths'][0]).convert('RGB').resize((256, 256), Image.BILINEAR)
    weights = torchvision.models.ResNet18_Weights.DEFAULT.transforms(crop_size=224)
    with torch.no_grad():
        expected = theirs.eval()(weights(image)[None])[0].numpy()
    actual = stored['features'][0]
    assert np.corrcoef(expected, actual)[0, 1] > 0.999  # resized by another library
    page, _ = neighbors(tmp_path / 'ours.pth', [tmp_path / 'images'], queries=2, shown=2)
    assert "Bar and number are a neighbour's cosine similarity" in page.read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['none.pth', 'labelled'], 'is no file'),
        (['random', 'random', 'labelled'], 'name one twice'),
        (['random', 'labelled/val/0'], "labels='folders': all"),
        (['random', 'nowhere'], 'there is no folder or file'),
        (['random', 'nowhere', '--seed', '-1'], '--seed=-1 must be at least 0'),
        (['random', 'labelled/val', '--labels', 'x.csv'], 'is neither a csv file nor'),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(
    digits, tmp_path, monkeypatch, decoded, arguments, message
):
    monkeypatch.chdir(digits)
    result = CliRunner().invoke(main, ['evaluate', *arguments, '--out', str(tmp_path / 'out')])
    assert result.exit_code == 1 and message in result.output
    assert not decoded and not (tmp_path / 'out').exists()


def test_a_backbone_that_has_diverged_is_named(baseline, digits, tmp_path):
    stored = torch.load(baseline)
    stored['state_dict']['backbone.conv1.weight'].fill_(float('nan'))
    torch.save(stored, tmp_path / 'nan.pth')
    with pytest.raises(ValueError, match=r'nan\.pth .* weights are not finite'):
        evaluate([tmp_path / 'nan.pth'], digits / 'labelled/val', tmp_path / 'out')


def test_a_backbone_that_gives_no_vector_is_refused_by_name(digits, tmp_path):
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=32, out_type='raw')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        weights = MODELS.build(backbone).state_dict()
    cfg = Config(dict(model=dict(backbone=backbone))).pretty_text
    weights = {f'backbone.{key}': value for key, value in weights.items()}
    torch.save(dict(state_dict=weights, meta=dict(cfg=cfg)), tmp_path / 'raw.pth')
    with pytest.raises(ValueError, match=r'raw\.pth has a VisionTransformer, which gives values'):
        evaluate([tmp_path / 'raw.pth'], digits / 'labelled/val', tmp_path / 'out')
