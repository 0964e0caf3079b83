"""Lower packages never import higher ones, and each can be imported alone."""

import ast

import pytest
from helpers import ROOT, run_tool

# From the bottom to the top.
ORDER = """version requirements console random_state parents registry datasets models checkpoints
backbones evaluation engine recipes visualization api cli __main__""".split()  # noqa: SIM905
FILES = sorted(p for p in (ROOT / 'mmsnclr').rglob('*.py') if '.mim' not in p.parts)


def imported(path):
    """What of the package a file imports, also inside functions."""
    package = ('mmsnclr', *path.relative_to(ROOT / 'mmsnclr').parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = [*base, *(node.module.split('.') if node.module else ())]
            yield from ([*names, name.name] for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name.split('.') for name in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(ROOT / 'mmsnclr').as_posix())
def test_no_import_goes_up(path):
    room = path.relative_to(ROOT / 'mmsnclr').parts[0].removesuffix('.py')
    allowed = ORDER if room == '__init__' else ORDER[: ORDER.index(room) + 1]
    assert {names[1] for names in imported(path) if names[0] == 'mmsnclr'} <= set(allowed)


@pytest.mark.slow
def test_each_room_can_be_imported_first():
    """Without the package's `__init__`, which imports them in an order that suits it."""
    code = 'import os, sys, types, mmpretrain.apis, sklearn.manifold, matplotlib.figure, timm\n'
    code += f'for room in {ORDER[:-1]}:\n    if os.fork() == 0: break\n    if os.wait()[1]: exit(1)'
    code += '\nelse: exit()\nsys.modules["mmsnclr"] = package = types.ModuleType("mmsnclr")\n'
    code += f'package.__path__ = [{str(ROOT / "mmsnclr")!r}]\n__import__(f"mmsnclr.{{room}}")'
    assert run_tool('-c', f'{code}\nos._exit(0)').returncode == 0  # their ends would take long
