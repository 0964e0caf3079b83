"""Settings of a config on the command line mean the same to verbs and tools."""

import argparse

import click
import pytest
from helpers import ROOT

from mmsnclr.cli.options import config_options


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('false', False),
        ('1e-3', 0.001),
        ('None', None),
        ('0.5,1', [0.5, 1]),
        ('[(1,2),[a,b]]', [(1, 2), ['a', 'b']]),
        ('my {{ fileBasename }}', 'my{{fileBasename}}'),
        ('{{ fileBasename }}', '{{fileBasename}}'),
        ("dict(type='SNCLRLoss', temperature=0.1)", dict(type='SNCLRLoss', temperature=0.1)),
        ('dict(type=SNCLRLoss,sync=true,lr=1e-3)', dict(type='SNCLRLoss', sync=True, lr=0.001)),
        (
            '{"type": "mmdet.ResNet", "a": {"b": [-1, None]}}',
            dict(type='mmdet.ResNet', a=dict(b=[-1, None])),
        ),
        ('dict(type=mmdet.ResNet)', dict(type='mmdet.ResNet')),
        ('[dict(type=A), dict(type=B, at=(1, 2))]', [dict(type='A'), dict(type='B', at=(1, 2))]),
        ('{}', {}),
        ("dict(checkpoint='a/b=c.pth')", dict(checkpoint='a/b=c.pth')),
    ],
)
def test_a_value_is_read_alike_by_verbs_and_tools(monkeypatch, text, value):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    from arguments import add_config_arguments

    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    options = [f'a.b={text}', 'c=1']
    by_tool = parser.parse_args(['config.py', '--cfg-options', *options]).cfg_options
    assert config_options(options) == by_tool == {'a.b': value, 'c': 1}
    assert config_options([]) == {}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a', 'KEY=VALUE'),
        ('=1', 'KEY=VALUE'),
        ('a=[1,2', 'mbalanced brackets'),
        ('a=dict(b=1', 'was never closed'),
        ('a=dict(1)', r'dict\(1\) is no value'),
        ('a=dict(**b)', 'is no value'),
        ('a=dict(b=c/d.pth)', r'c / d\.pth is no value; texts may stand in quotes'),
        ('a=dict(b=open("f"))', 'is no value'),
        ('a=f(1,2)', 'cannot be read'),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(click.UsageError, match=f'--cfg-options: .*{message}'):
        config_options([text])
