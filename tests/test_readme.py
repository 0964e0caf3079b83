"""What the README says can be done can be done."""

import re

from helpers import ROOT
from mmengine.config import Config
from mmpretrain.registry import DATASETS

README = (ROOT / 'README.md').read_text()


def test_the_config_of_the_readme_reads_a_plain_folder(digits, tmp_path):
    (code,) = [c for c in re.findall(r'```python\n(.*?)```', README, re.S) if '_base_ =' in c]
    path = tmp_path / 'my_config.py'
    path.write_text(code.replace('data/my_images', str(digits / 'unlabelled')))
    config = Config.fromfile(path)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert len(dataset) == 96
    views = dataset[0]['inputs']
    assert [tuple(view.shape) for view in views] == [(3, 224, 224)] * 2
    assert config.model.queue.length == 16_000 and config.model.head.neighbors == 10


def test_the_files_that_the_readme_names_exist():
    names = re.findall(r'(?:^|[\s(`])((?:tools|configs|mmsnclr)/[\w./-]+)', README)
    assert len(names) > 10
    for name in names:
        assert (ROOT / name.rstrip('.')).exists(), name


def test_the_settings_that_the_readme_names_exist():
    code = ''.join(path.read_text() for path in (ROOT / 'mmsnclr').rglob('*.py'))
    names = re.findall(r'(\w+)=[\w\'"]', README.split('## The method')[1].split('## Install')[0])
    assert {'form', 'sync', 'warmup_epochs', 'num_layers'} <= set(names)
    for name in names:
        assert re.search(rf'\b{name}\b', code), name
