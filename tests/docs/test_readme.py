"""What the README and the pages on configs and on the paper say can be done can be done."""

import ast
import json
import re
from functools import partial

import pytest
from helpers import ROOT, run_tool, small_model
from mmengine.config import Config
from mmpretrain.registry import DATASETS, MODELS

from mmsnclr.cli import main
from mmsnclr.datasets import AugmentedViews
from mmsnclr.engine.hooks import NeighborQueueHook
from mmsnclr.models import NeighborQueue, SNCLRLoss, SNCLRNeck

README, CONFIGS, PAPER = (
    (ROOT / name).read_text() for name in ('README.md', 'docs/configs.md', 'docs/paper.md')
)


def test_the_config_of_the_documents_pretrains_on_a_plain_folder(digits, tmp_path):
    (code,) = [c for c in re.findall(r'```python\n(.*?)```', CONFIGS, re.S) if '_base_ =' in c]
    path = tmp_path / 'my_config.py'
    path.write_text(code.replace('data/my_images', str(digits / 'unlabelled')))
    config = Config.fromfile(path)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert len(dataset) == 96
    assert [tuple(view.shape) for view in dataset[0]['inputs']] == [(3, 224, 224)] * 2
    assert config.model.queue.length == 16_000 and config.model.head.neighbors == 10

    result = run_tool(
        'tools/train.py',
        str(path),
        '--auto-scale-lr',
        '--work-dir',
        str(tmp_path / 'run'),
        '--cfg-options',
        'model.backbone.depth=18',
        'model.neck.in_channels=512',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_dataloader.dataset.indices=16',
        'train_cfg.max_epochs=1',
        'custom_hooks.0.warmup_epochs=0',
        'default_hooks.logger.interval=1',
    )
    assert result.returncode == 0, result.stderr
    assert 'Epoch(train) [1][4/4]' in result.stdout and 'view_recall' in result.stdout
    # 4 images where 4,096 were meant: the learning rate is a thousandth of the recipe's.
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    first = json.loads(log.read_text().splitlines()[0])
    assert first['lr'] == pytest.approx(1e-6 * 4 / 4096, rel=1e-3)


def test_the_files_that_the_readme_links_to_exist():
    names = re.findall(r'\]\(((?!http)[^)]+)\)', README)
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists(), name


def test_the_readme_names_every_verb_once_in_its_table():
    rows = re.findall(r'^\| (`.*?) \|', README, re.M)
    named = [verb for row in rows for verb in re.findall(r'`([a-z]+)`', row)]
    assert sorted(named) == sorted(main.commands)


def test_the_readme_fits_a_screen_and_its_pictures_a_page():
    assert len(README.splitlines()) < 100
    for picture in re.findall(r'!\[[^]]*\]\(([^)]+)\)', README):
        assert (ROOT / picture).stat().st_size < 200_000


# What the rows of the table about the paper and the released code speak of.
PARTS = {
    'loss': SNCLRLoss,
    'candidate set': NeighborQueue,
    'warm-up': NeighborQueueHook,
    'momentum coefficient': lambda **settings: MODELS.build(small_model(**settings)),
    "ViT's patch projection": lambda **settings: MODELS.build(small_model(**settings)),
    'crops': partial(AugmentedViews, views=[]),
    'projector': partial(SNCLRNeck, in_channels=8, hid_channels=8, out_channels=8),
}


def test_each_part_takes_the_settings_that_the_documents_say_of_it():
    table = PAPER.partition('| | paper (default) | released code |')[2].partition('\n\n')[0]
    named = {}
    for line in table.splitlines()[2:]:
        row, *cells = (cell.strip() for cell in line.strip('|').split('|'))
        for cell in cells:
            settings = re.findall(r"(\w+)=('\w+'|[\w.]+)", cell.replace('=m)', '=2)'))
            if settings:
                settings = {name: ast.literal_eval(value) for name, value in settings}
                PARTS[row](**settings)
                named.setdefault(row, set()).update(settings)
    assert named == {
        'loss': {'form', 'loss_weight'},
        'candidate set': {'sync'},
        'warm-up': {'warmup_epochs'},
        'momentum coefficient': {'end_momentum_coefficient'},
        'projector': {'num_layers', 'with_last_bn', 'with_last_bn_affine'},
        'crops': {'interpolation'},
        "ViT's patch projection": {'frozen_patch_embed'},
    }
