"""`mmsnclr neighbors` and `mmsnclr embed`: what a trained model makes of images."""

import csv
import os
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from browser import browse, check_page, needs_chromium
from click.testing import CliRunner
from helpers import config_of, small_run
from matplotlib import colormaps
from matplotlib.figure import Figure
from mmengine.config import Config
from pictures import shown_in
from torch.nn import functional as F

from mmsnclr.api.embed import embed
from mmsnclr.api.neighbors import neighbors
from mmsnclr.cli import main
from mmsnclr.datasets.listing import list_images
from mmsnclr.datasets.views import view_size
from mmsnclr.engine import build_runner
from mmsnclr.engine.run import load_run, read_encoder
from mmsnclr.evaluation.representation import represent_images
from mmsnclr.models import SNCLR
from mmsnclr.visualization import draw_projection, find_neighbors, project


@pytest.fixture(scope='session')
def checkpoint(trained):
    return trained / 'epoch_2.pth'


@pytest.fixture(scope='session')
def pages(checkpoint, digits, tmp_path_factory):
    """The verb's output with labels by folder."""
    return neighbors(
        checkpoint,
        [digits / 'labelled' / 'val'],
        out=tmp_path_factory.mktemp('gallery'),
        labels='folders',
        queries=14,
        shown=3,
    )


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_run_is_loaded_with_its_weights_and_config(checkpoint):
    cfg, model = load_run(checkpoint)
    stored = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    assert not model.training and cfg.model.head.neighbors == 4
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.cpu(), stored[name])
    assert model.queue.fill == 64 and view_size(cfg) == 64


def test_lists_are_read_from_the_image_root_by_every_verb(trained, checkpoint, digits, tmp_path):
    folder, source = digits / 'labelled' / 'val', tmp_path / 'list.txt'
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png'))
    source.write_text('\n'.join(names[:12]))
    run = shutil.copytree(trained, tmp_path / 'run')
    for verb in (
        ('embed', checkpoint, source, '--out', tmp_path / 'embed'),
        ('neighbors', checkpoint, source, '--out', tmp_path / 'neighbors'),
        ('report', run, '--images', source),
    ):
        result = cli(*verb, '--image-root', folder)
        assert result.exit_code == 0, result.output
    assert len(np.load(tmp_path / 'embed/features.npz')['paths']) == 12


def test_neighbors_and_positiveness_are_the_papers(checkpoint, digits):
    encoder = read_encoder(checkpoint)
    paths = list_images([digits / 'labelled' / 'val'])
    images = represent_images(encoder, paths)
    gallery = find_neighbors(encoder.method, images, queries=5, shown=3)
    parts = (images.parts[name].double() for name in ('keys', 'projections'))
    keys, online = (F.normalize(part) for part in parts)
    for row, query in enumerate(gallery.queries.tolist()):
        similarity = keys[query] @ keys.T
        similarity[query] = -2
        expected, index = similarity.topk(4)
        assert gallery.index[row].tolist() == index[:3].tolist()
        np.testing.assert_allclose(gallery.similarity[row], expected[:3], rtol=1e-5)
        weights = (online[query] @ keys[index].T).softmax(dim=0)
        np.testing.assert_allclose(
            gallery.positiveness[row], weights[:3] / weights.max(), rtol=1e-5
        )


def test_of_a_method_that_weighs_the_whole_set_those_that_are_shown_are_weighed(
    checkpoint, digits, monkeypatch
):
    encoder = read_encoder(checkpoint)
    images = represent_images(encoder, list_images([digits / 'labelled' / 'val']))
    monkeypatch.setattr(SNCLR, 'neighbors', None)
    monkeypatch.setattr(SNCLR, 'weighs', True)
    gallery = find_neighbors(encoder.method, images, queries=5, shown=3)
    assert gallery.positiveness.shape == gallery.index.shape == (5, 3)


def test_the_picture_is_as_large_as_its_rows(pages):
    picture = cv2.imread(str(pages[1]))
    assert picture.shape[0] == pytest.approx(12 * 135, abs=2)  # of 14 queries the first 12
    assert picture.shape[1] == 650  # as wide as its legend


def test_the_page_shows_every_neighbor_and_whether_it_is_of_the_class(pages):
    page = pages[0].read_text()
    assert page.count('class="query card"') == 14
    sections = re.findall(r'<section[^>]*data-text="([^"]*)"(.*?)</section>', page, re.S)
    for text, section in sections:
        shown = re.findall(r'<figure class="(\w+)">.*?([✓✗]) (\w+)</span>', section, re.S)
        label = text.split()[-1]
        assert shown == [
            ('same', '✓', own) if own == label else ('other', '✗', own) for *_, own in shown
        ]
        assert len(shown) == 3
    assert 0 < page.count('<figure class="same">') < 14 * 3
    assert page.count('src="data:image/jpeg;base64,') == 14 * 4
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    purities = [float(text) for text in re.findall('data-purity="([^"]+)"', page)]
    assert purities == sorted(purities, reverse=True)


@needs_chromium
def test_the_page_needs_no_network_and_fits_the_window(pages):
    check_page(pages[0])


@needs_chromium
def test_the_search_box_filters_by_file_name_and_label(pages):
    def visible(query):
        dom = browse(pages[0], query)
        return [
            text
            for tag, text in re.findall('(<section[^>]*data-text="([^"]*)"[^>]*>)', dom)
            if 'hidden' not in tag
        ]

    everything = visible('')
    assert len(everything) == 14
    name = everything[5].split()[0].split('/')[1]
    assert visible(f'?search={name}') == [everything[5]]
    label = everything[0].split()[-1]
    found = visible(f'?search={label}/')
    assert found == [text for text in everything if f'{label}/' in text]
    assert visible('?search=no-such-file') == []


def test_without_labels_nothing_is_said_about_classes(checkpoint, digits, tmp_path):
    page, _ = neighbors(checkpoint, [digits / 'unlabelled'], tmp_path, queries=2, max_images=20)
    text = page.read_text()
    assert 'among 19 others' in text and text.count('class="query card"') == 2
    assert 'class="same"' not in text and 'purest' not in text


@pytest.fixture(scope='session')
def odd_page(checkpoint, digits, tmp_path_factory):
    """A page about images with long names, and with HTML in them."""
    folder = tmp_path_factory.mktemp('odd')
    for number, source in enumerate(sorted((digits / 'unlabelled').glob('*.png'))[:8]):
        (folder / f'<b>"{"long" * 20}{number}&.png').write_bytes(source.read_bytes())
    return neighbors(checkpoint, [folder], folder / 'out')[0]


def test_file_names_cannot_write_into_the_page(odd_page):
    text = odd_page.read_text()
    assert '<b>' not in text and '&lt;b&gt;' in text


@needs_chromium
def test_long_file_names_fit_the_window(odd_page):
    check_page(odd_page)


def test_images_of_16_bits_are_shown_as_the_network_sees_them(checkpoint, tmp_path):
    stored = torch.load(checkpoint, weights_only=False)
    cfg = Config.fromstring(stored['meta']['cfg'], '.py')
    cfg.train_dataloader.dataset.pipeline[0].levels = (1000, 1200)
    stored['meta']['cfg'] = cfg.pretty_text
    torch.save(stored, tmp_path / 'deep.pth')
    draw = np.random.default_rng(0)
    for name in 'abcdef':
        values = draw.integers(1000, 1200, (64, 64)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f'{name}.png'), values)
    page, picture = neighbors(tmp_path / 'deep.pth', [tmp_path], tmp_path / 'out', shown=2)
    shown = shown_in(page)
    assert len(shown) == 6 * 3 and all(np.ptp(image) > 200 for image in shown)
    drawn = cv2.imread(str(picture))[..., 0]
    assert np.mean((drawn > 30) & (drawn < 100)) > 0.05  # dark grey


def test_fewer_neighbours_than_asked_for_are_explained(checkpoint, digits, tmp_path):
    k = load_run(checkpoint)[1].neighbors
    images = digits / 'labelled' / 'val'
    result = cli('neighbors', checkpoint, images, '--out', tmp_path, '--shown', k + 5)
    assert f'{k} neighbours of each are shown, not {k + 5}: the model weighs K = {k}' in (
        result.output
    )
    result = cli('neighbors', checkpoint, images, '--out', tmp_path, '--shown', k)
    assert 'of each are shown' not in result.output


@pytest.mark.parametrize('method', ['nnclr', 'sce'])
def test_methods_without_positiveness_show_similarity(method, digits, tmp_path):
    config = small_run(digits, tmp_path, **{'train_cfg.max_epochs': 1})
    config.model = config_of(method)
    build_runner(config).train()
    arguments = ('neighbors', tmp_path / 'epoch_1.pth', digits / 'unlabelled', '--shown', 2)
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    assert 'has no positiveness of neighbours: cosine similarity is shown' in result.output
    text = (tmp_path / 'neighbors.html').read_text()
    assert text.count('class="query card"') == 40 and 'positiveness, the highest' not in text


def test_a_backbone_alone_shows_the_cosine_similarity_of_its_features(trained, digits, tmp_path):
    images = digits / 'labelled' / 'val'
    result = cli('neighbors', trained / 'backbone.pth', images, '--out', tmp_path, '--shown', 2)
    assert result.exit_code == 0, result.output
    assert 'has no positiveness of neighbours: cosine similarity is shown' in result.output
    text = (tmp_path / 'neighbors.html').read_text()
    assert "Bar and number are a neighbour's cosine similarity" in text
    encoder, paths = read_encoder(trained / 'backbone.pth'), list_images(images)
    gallery = find_neighbors(None, represent_images(encoder, paths), queries=30, shown=2)
    shown = re.findall(r'class="numbers"><span>(-?[\d.]+)</span></span>', text)
    assert sorted(shown) == sorted(f'{x:.2f}' for x in gallery.similarity.flatten().tolist())
    features = F.normalize(represent_images(encoder, paths).parts['features'].double(), dim=1)
    similarity = (features @ features.T).fill_diagonal_(-2)
    expected = similarity.topk(2).values[gallery.queries]
    np.testing.assert_allclose(gallery.similarity, expected, rtol=1e-5)


def test_a_runs_folder_stands_for_its_newest_checkpoint(trained, digits, tmp_path):
    result = cli('neighbors', trained, digits / 'unlabelled', '--out', tmp_path, '--shown', 2)
    assert result.exit_code == 0 and 'no positiveness' not in result.output
    assert f'images as {trained}/epoch_2.pth sees them' in (tmp_path / 'neighbors.html').read_text()


@pytest.fixture(scope='session')
def embedding(checkpoint, digits, tmp_path_factory):
    out = tmp_path_factory.mktemp('features')
    return embed(checkpoint, [digits / 'labelled' / 'val'], out, labels='folders', csv=True)


def test_features_are_the_backbones(embedding, checkpoint, digits):
    stored = np.load(embedding.npz)
    assert stored['features'].shape == (30, 128) and stored['projection'].shape == (30, 2)
    _, model = load_run(checkpoint)
    for row in (0, 29):
        path = stored['paths'][row]
        assert stored['labels'][row] == path.split('/')[-2]
        image = cv2.resize(cv2.imread(path), (73, 73), interpolation=cv2.INTER_LINEAR)[4:68, 4:68]
        batch = dict(inputs=[torch.tensor(image).permute(2, 0, 1)[None]], data_samples=None)
        inputs = (batch['inputs'][0].flip(1).float() - 80) / 40
        with torch.no_grad():
            expected = model.backbone(inputs)[-1].mean(dim=(2, 3))[0]
        np.testing.assert_allclose(stored['features'][row], expected, rtol=1e-4, atol=1e-4)


def test_the_csv_holds_the_same_as_the_npz(embedding):
    stored = np.load(embedding.npz)
    with embedding.csv.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['path'] for row in rows] == stored['paths'].tolist()
    assert [row['label'] for row in rows] == stored['labels'].tolist()
    values = [[float(row[f'feature_{i}']) for i in range(128)] for row in rows]
    np.testing.assert_allclose(values, stored['features'], rtol=1e-5)
    positions = [[float(row['x']), float(row['y'])] for row in rows]
    np.testing.assert_allclose(positions, stored['projection'], rtol=1e-5)


def test_the_projection_is_drawn_with_a_colour_for_each_class(embedding, tmp_path):
    picture = cv2.imread(str(embedding.picture))
    assert picture.shape == (648, 864, 3)
    points = np.random.default_rng(0).normal(size=(60, 2))
    labels = [f'class {number % 10}' for number in range(60)]

    def classes_seen(labels):
        path = draw_projection(points, labels, tmp_path / 'points.png', 'points')
        pixels = cv2.imread(str(path))[..., ::-1].reshape(-1, 3).astype(int)
        colours = 255 * (0.8 * np.array(colormaps['tab10'].colors) + 0.2)  # opaque by 80 %
        return sum((np.abs(pixels - colour).max(axis=1) <= 1).sum() > 50 for colour in colours)

    assert classes_seen(labels) == 10
    assert classes_seen([*labels[:59], 'an 11th']) == 10  # the rarest shares the grey
    assert classes_seen(['one', 'two'] * 30) == 2


def test_the_legend_has_names_of_every_kind(tmp_path, monkeypatch):
    drawn, savefig = [], Figure.savefig

    def catch(figure, *args, **kwargs):
        drawn.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, 'savefig', catch)
    names = ['$x^$', '_hidden', 'plain']
    draw_projection(np.eye(3)[:, :2], names, tmp_path / 'points.png', 'points')
    (legend,) = drawn[0].legends
    assert [text.get_text().replace(r'\$', '$') for text in legend.texts] == names


def test_pca_keeps_the_widest_directions_and_tsne_separates_clusters():
    rng = np.random.default_rng(0)
    centres = np.eye(12)[:3] * 5
    features = np.concatenate([c + 0.3 * rng.normal(size=(30, 12)) for c in centres])
    clusters = np.repeat([0, 1, 2], 30)
    for method in ('pca', 'tsne'):
        positions = project(features, method)
        means = np.stack([positions[clusters == c].mean(axis=0) for c in range(3)])
        nearest = ((positions[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == clusters).all()
    with pytest.raises(ValueError, match='at least 3 images'):
        project(features[:2])


def test_images_that_cannot_be_read_are_left_out(checkpoint, digits, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    sources = sorted((digits / 'unlabelled').glob('*.png'))[:8]
    for source in sources:
        (folder / source.name).write_bytes(source.read_bytes())
    cli('embed', checkpoint, folder, '--out', tmp_path / 'good')
    (folder / '00000a.png').write_bytes(b'no picture')
    (folder / '00000b.jpg').symlink_to('nowhere')
    odd = folder / os.fsdecode(b'z\xff.png')
    odd.write_bytes(sources[0].read_bytes())
    result = cli('embed', checkpoint, folder, '--out', tmp_path / 'some', '--csv')
    assert result.exit_code == 0, result.output
    good, some = (np.load(tmp_path / name / 'features.npz') for name in ('good', 'some'))
    assert some['paths'].tolist() == [*good['paths'].tolist(), str(odd)]
    assert np.allclose(some['features'][:-1], good['features'])
    assert r'z\udcff.png' in (tmp_path / 'some' / 'features.csv').read_text()
    assert not (tmp_path / 'good' / 'features.csv').exists()
    result = cli('neighbors', checkpoint, folder, '--out', tmp_path, '--shown', 4)
    assert result.exit_code == 0, result.output
    assert r'z\udcff.png' in (tmp_path / 'neighbors.html').read_text()


def test_very_long_images_are_embedded_and_shown(checkpoint, digits, tmp_path):
    draw = np.random.default_rng(0)
    for name, height, width in (('spectrogram', 64, 18000), ('line', 8, 3000), ('column', 3000, 8)):
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
    arguments = (tmp_path, digits / 'unlabelled', '--out', tmp_path / 'out')
    for verb in ('embed', 'neighbors'):
        result = cli(verb, checkpoint, *arguments, *(['--queries', 99] if verb != 'embed' else []))
        assert result.exit_code == 0, result.output
    assert len(np.load(tmp_path / 'out' / 'features.npz')['paths']) == 99
    assert (tmp_path / 'out' / 'neighbors.html').read_text().count('class="query card"') == 99


def test_mistakes_are_named_in_a_line(checkpoint, digits, tmp_path):
    (tmp_path / 'empty').mkdir()
    torch.save({'state_dict': {}}, tmp_path / 'other.pth')
    meta = dict(cfg="model = dict(backbone=dict(type='ResNet', depth=18))")
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'backbone.pth')
    (tmp_path / 'damaged').mkdir()
    (tmp_path / 'damaged' / 'a.png').write_bytes(b'no picture')
    images = digits / 'unlabelled'
    for arguments, message in (
        (('neighbors', tmp_path / 'none.pth', images), 'no checkpoint at'),
        (('neighbors', tmp_path / 'other.pth', images), 'other.pth holds'),
        (('neighbors', tmp_path / 'backbone.pth', images), 'backbone.pth holds'),
        (('neighbors', checkpoint, tmp_path / 'empty'), 'no images in'),
        (('neighbors', checkpoint, tmp_path / 'damaged'), '1 of 1 images cannot be read'),
        (('neighbors', checkpoint, tmp_path / 'missing'), 'there is no folder or file'),
        (('neighbors', checkpoint, images, '--labels', 'x.csv'), 'is neither a csv file nor'),
        (('neighbors', checkpoint, images, '--max-images', 3), '4 neighbours'),
        # Before anything is read.
        (('neighbors', 'none.pth', images, '--queries', 0), '--queries=0 must be at least 1'),
        (('neighbors', 'none.pth', images, '--shown', 0), '--shown=0 must be at least 1'),
        (('neighbors', checkpoint, images, '--max-images', 0), '--max-images=0 must be at least 1'),
        (('embed', checkpoint, images, '--out', tmp_path, '--max-images', 2), 'at least 3 images'),
    ):
        result = cli(*arguments)
        assert result.exit_code == 1 and message in result.output
        assert result.output.rstrip().splitlines()[-1].startswith('Error: ')


@pytest.mark.parametrize('verb', ['neighbors', 'embed', 'report'])
def test_help_has_an_example_and_fits_a_screen(verb):
    result = cli(verb, '--help')
    lines = result.output.splitlines()
    assert result.exit_code == 0 and len(lines) <= 40 and max(map(len, lines)) <= 80
    assert any(line.strip().startswith(f'mmsnclr {verb} run/') for line in lines)
