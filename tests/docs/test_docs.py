"""The documents name what is there."""

import re

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config

DOCUMENTS = [
    ROOT / 'README.md',
    *sorted((ROOT / 'docs').glob('*.md')),
    ROOT / 'docs/tutorial.ipynb',
]


def named_paths(text):
    """Paths in a document, alternatives in braces written out."""
    for path in re.findall(r'(?:configs|tools|benchmarks|tests|mmsnclr)/[\w./{},+-]*\w', text):
        head, *alternatives = re.split(r'\{([^}]*)\}', path, maxsplit=1)
        if alternatives:
            yield from (head + choice + alternatives[1] for choice in alternatives[0].split(','))
        else:
            yield path


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_every_path_in_a_document_is_there(document):
    paths = set(named_paths(document.read_text()))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_paths_in_documents_are_found():
    assert sum(len(set(named_paths(document.read_text()))) for document in DOCUMENTS) > 100


def test_every_config_is_named_where_results_are_reproduced():
    named = set(named_paths((ROOT / 'docs/reproduce.md').read_text()))
    configs = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'configs').rglob('*.py')
        if not {'_base_', 'demo'} & set(path.parts)
    }
    assert configs - named == set()


def test_every_command_in_a_configs_head_names_that_config():
    named = 0
    for path in (ROOT / 'configs').rglob('*.py'):
        for command in re.findall(r'tools/dist_train\.sh (\S+)', path.read_text()):
            assert command == path.relative_to(ROOT).as_posix()
            named += 1
    assert named > 30


def test_the_metafile_lists_every_pretraining_recipe_and_invents_no_result():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == ['configs/metafile.yml']
    content = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())
    recipes = {
        path.relative_to(ROOT).as_posix(): Config.fromfile(path)
        for path in (ROOT / 'configs').glob('*.py')
        if path.name.startswith(('snclr', 'nnclr', 'sce'))
    }
    assert {model['Config'] for model in content['Models']} == set(recipes)
    for model in content['Models']:
        recipe = recipes[model['Config']]
        assert model['Metadata']['Epochs'] == recipe.train_cfg.max_epochs
        assert model['Metadata']['Batch Size'] == recipe.auto_scale_lr.base_batch_size
        assert model['In Collection'] == recipe.model.type
        assert model['Weights'] is None and model['Results'] is None
    assert {c['Name'] for c in content['Collections']} == {'SNCLR', 'NNCLR', 'SCE'}
