"""The main job on embedded data: unlabelled pictures in, a better detector out.

Pretrains a small ResNet on unlabelled pictures of handwritten digits, draws
nearest neighbours, measures it by k-NN and linear evaluation, and trains Mask
R-CNN from it and from a random backbone: each by a command that is printed
before it runs, and can be copied.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mmsnclr.datasets.digits import write_digits
from mmsnclr.parents import only_progress

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {'mmsnclr': [sys.executable, '-m', 'mmsnclr'], 'python': [sys.executable]}
STARTED = time.monotonic()


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--quick', action='store_true', help='a minute, with figures to match')
    args = parser.parse_args()
    out = Path(os.path.relpath(args.out, ROOT))
    os.chdir(ROOT)  # where the commands name tools and configs
    print(f'The commands below run in {ROOT}')

    draw_digits(out, args.quick)
    checkpoint = pretrain(out, args.quick)
    draw_neighbors(out, checkpoint)
    figures = {
        'k-NN top-1 (k = 20), %': measure_knn(out, checkpoint),
        'linear evaluation top-1, %': (evaluate_linear(out, checkpoint, args.quick), None),
        **train_detectors(out, checkpoint, args.quick),
    }
    write_summary(out, checkpoint, figures, args.quick)


def headline(text: str) -> None:
    """Say what comes next, and when that is."""
    print(f'\n== {(time.monotonic() - STARTED) / 60:.1f} min: {text}', flush=True)


def run(*command: object) -> str:
    """Print a command as a user would type it, run it, and return what it printed."""
    words = [str(word) for word in command]
    lines_of_options = re.sub(r' (?=--|\w+\.\S+=)', ' \\\\\n    ', shlex.join(words))
    print(f'\n$ {lines_of_options}', flush=True)
    # The log of tools/train.py begins with the whole environment and config.
    show = only_progress() if 'tools/train.py' in words else contextlib.nullcontext()
    lines = []
    with (
        subprocess.Popen(
            [*PROGRAMS[words[0]], *words[1:]], stdout=subprocess.PIPE, text=True
        ) as process,
        show,
    ):
        for line in process.stdout:
            lines.append(line)
            if not line.startswith('['):  # a progress bar, which needs a terminal
                print(line, end='', flush=True)
    if process.returncode:
        raise SystemExit(f'This command failed: {shlex.join(words)}')
    return ''.join(lines)


def train(config: str, work_dir: Path, options: list[str]) -> str:
    """Train by a config of the demo, and return the log."""
    command = ['python', 'tools/train.py', f'configs/demo/{config}', '--work-dir', work_dir]
    return run(*command, '--cfg-options', *options)


def draw_digits(out: Path, quick: bool) -> None:
    """Draw the pictures, in place of all that an earlier demo left."""
    headline(f'Drawing pictures of digits into {out / "digits"}')
    there = [out / name for name in ('detector', 'linear', 'snclr', 'digits')]
    there = [folder for folder in there if folder.exists()]
    drawn = {path.name for path in (out / 'digits').glob('*')}
    if there and not (there[-1].name == 'digits' and drawn <= {'unlabelled', 'labelled', 'scenes'}):
        raise SystemExit(f'{there[0]} is not of a demo: choose another --out')
    for folder in there:
        shutil.rmtree(folder)
    sizes = dict(unlabelled=512, labelled=(200, 100), scenes=(16, 8)) if quick else {}
    write_digits(out / 'digits', **sizes)


def pretrain(out: Path, quick: bool) -> Path:
    """Pretrain on the unlabelled pictures, and return the checkpoint."""
    headline('Pretraining on the unlabelled pictures')
    epochs = 2 if quick else 32
    options = [f'train_dataloader.dataset.data_root={out / "digits/unlabelled"}']
    if quick:
        options += [f'train_cfg.max_epochs={epochs}', 'custom_hooks.0.warmup_epochs=1']
        options += ['model.queue.length=300']
    # By a config: for so small a network and few steps `mmsnclr pretrain` would need many options.
    train('snclr_digits.py', out / 'snclr', options)
    return out / 'snclr' / f'epoch_{epochs}.pth'


def draw_neighbors(out: Path, checkpoint: Path) -> None:
    """Draw validation pictures with their nearest neighbours."""
    headline('Nearest neighbours of some pictures')
    pictures = out / 'digits/labelled/val'
    run('mmsnclr', 'neighbors', checkpoint, pictures, '--labels', 'folders', '--out', out)


def labelled_digits(out: Path) -> list[str]:
    """The options that have configs/demo/linear_digits.py find its pictures."""
    root = out / 'digits/labelled'
    return [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val')]


def measure_knn(out: Path, checkpoint: Path) -> tuple[float, float]:
    """k-NN accuracy of the pretrained and of a random backbone."""
    headline('k-NN accuracy of the pretrained backbone, then of a random one')
    command = ['python', 'tools/knn.py', 'configs/demo/linear_digits.py']
    options = ['-k', 20, '--cfg-options', *labelled_digits(out)]
    pretrained = run(*command, checkpoint, *options)
    random = run(*command, *options, 'model.backbone.init_cfg=None')
    accuracy = r'k-NN top-1 .*: ([\d.]+)'
    return tuple(float(re.search(accuracy, text)[1]) for text in (pretrained, random))


def evaluate_linear(out: Path, checkpoint: Path, quick: bool) -> float:
    """Accuracy of a linear classifier on the frozen backbone."""
    headline('Linear evaluation')
    options = [f'model.backbone.init_cfg.checkpoint={checkpoint}', *labelled_digits(out)]
    if quick:
        options += ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    log = train('linear_digits.py', out / 'linear', options)
    return float(re.search(r'accuracy/top1: ([\d.]+)', log)[1])


def train_detectors(out: Path, checkpoint: Path, quick: bool) -> dict[str, tuple[float, float]]:
    """Box and mask AP of Mask R-CNN from the pretrained and from a random backbone."""
    headline('Mask R-CNN from the pretrained backbone, then from a random one')
    scenes = out / 'digits/scenes'
    iterations = 10 if quick else 300
    command = ['mmsnclr', 'detect', scenes / 'train.json', scenes / 'train']
    command += ['--val', scenes / 'val.json', '--val-images', scenes / 'val']
    command += ['--backbone', checkpoint, '--compare', 'random', '--out', out / 'detector']
    command += ['--iterations', iterations, '--no-flip']  # a mirrored digit is no digit
    table = run(*command)
    rows = re.findall(r'\| (box|mask) AP \| ([\d.]+) \| ([\d.]+)', table)
    return {
        f'Mask R-CNN {kind} AP, {iterations} iterations': tuple(map(float, values))
        for kind, *values in rows
    }


def write_summary(out: Path, checkpoint: Path, figures: dict, quick: bool) -> None:
    """Write the figures, and where everything is."""
    minutes = (time.monotonic() - STARTED) / 60
    rows = ''
    for name, values in figures.items():
        cells = ['' if value is None else f'{value:.1f}' for value in values]
        rows += f'| {name} | {" | ".join(cells)} |\n'
    summary = f"""# mmsnclr demo

SNCLR pretrained a ResNet-18 of width 16 on unlabelled pictures of one
handwritten digit each; Mask R-CNN learned to find digits in scenes. Measured
on validation pictures of digits seen in no training picture
({minutes:.1f} minutes in all{', the quick form: too short to learn much' if quick else ''}).

| | pretrained backbone | random backbone |
| --- | ---: | ---: |
{rows}
The gain is largely one of time: digits are so easy that with twice as many
steps the random backbone had caught up by half.

Queries, their nearest neighbours and their positiveness relative to the row's
highest; green frames are of the query's class:

![Nearest neighbours](neighbors.png)

| what | where |
| --- | --- |
| SNCLR checkpoint | `snclr/{checkpoint.name}` |
| neighbours of more pictures | `neighbors.html` |
| linear classifier | `linear/` |
| Mask R-CNN | `detector/`, its own summary in `detector/summary.md` |
| pictures and annotations | `digits/` |
"""
    (out / 'summary.md').write_text(summary)
    print(f'\n{summary}\nThis summary: {out / "summary.md"}')


if __name__ == '__main__':
    main()
