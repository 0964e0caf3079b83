"""Makes what the documents show: `python docs/pictures.py demo`, `... tutorial` or `... report`.

`demo` runs the demo, and makes the picture of the README from it. `tutorial` runs
docs/tutorial.ipynb, and keeps what its commands say and draw in it. `report` trains as
docs/reading_the_report.md says, and draws the curves there. Each takes some minutes on two cores.
"""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from matplotlib.figure import Figure
from mmengine.config import Config
from nbclient import NotebookClient
from PIL import Image

from mmsnclr.datasets.digits import write_digits
from mmsnclr.engine.run import read_log
from mmsnclr.visualization.report import judge

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
CROP = 'train_dataloader.dataset.pipeline.1.transforms.0.0.crop_ratio_range'
# The demo's recipe on 640 pictures, for a minute; and what makes it ill.
ALL = {
    'train_dataloader.batch_size': 64,
    'train_cfg.max_epochs': 6,
    'param_scheduler.T_max': 6,
    'custom_hooks.0.warmup_epochs': 2,
    'model.queue.length': 640,
    'model.head.neighbors': 6,
    'model.momentum_coefficient': 0.9,
    'default_hooks.logger.interval': 2,
    CROP: '(0.8,1.0)',
}
ILL = {
    'healthy': {},
    'collapse': {
        'optim_wrapper.optimizer.weight_decay': 20,
        'optim_wrapper.optimizer.momentum': 0,
        'model.momentum_coefficient': 0,
    },
    'noise': {CROP: '(0.02,0.05)'},
    'rate': {'optim_wrapper.optimizer.lr': 6},
}
CURVES = {
    'loss': 'Loss',
    'feature_std': 'Spread of features',
    'effective_rank': 'Effective rank',
    'view_recall': 'View recall',
}


def run_tutorial(folder: Path) -> nbformat.NotebookNode:
    """The tutorial's notebook, run in a folder, with what its cells said and drew."""
    os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    os.environ.update(XDG_CACHE_HOME=str(folder / 'cache'), PYTHONWARNINGS='ignore')
    notebook = nbformat.read(DOCS / 'tutorial.ipynb', as_version=4)
    resources = dict(metadata=dict(path=str(folder)))
    # What commands say comes in pieces of any length.
    options = dict(timeout=None, record_timing=False, coalesce_streams=True)
    NotebookClient(notebook, resources=resources, **options).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    for output in outputs:
        if 'text' in output:
            output.text = _as_shown(output.text).replace(f'{folder}/', '')
        if 'image/png' in output.get('data', {}):
            output.data = _smaller(output.data)
    return notebook


def _as_shown(text: str) -> str:
    """What a terminal shows of a text with progress bars in colours."""
    lines = re.sub(r'\x1b\[[\d;]*[A-Za-z]', '', text).replace('\r\n', '\n').split('\n')
    return '\n'.join(line.rpartition('\r')[2] for line in lines)


def _smaller(data: dict) -> dict:
    """A picture in fewer pixels, and in the format that takes less."""
    picture = Image.open(io.BytesIO(base64.b64decode(data['image/png']))).convert('RGB')
    picture.thumbnail((700, 700))
    stored = {}
    for kind in ('png', 'jpeg'):
        picture.save(file := io.BytesIO(), kind, quality=60)
        stored[f'image/{kind}'] = base64.b64encode(file.getvalue()).decode()
    name = min(stored, key=lambda kind: len(stored[kind]))
    return {name: stored[name]}


def draw_results(folder: Path, path: Path) -> None:
    """Draw the demo's neighbours and, below, what the detector found beside the truth."""
    gallery = Image.open(folder / 'neighbors.png').convert('RGB')
    gallery = gallery.crop((0, 0, gallery.width, 43 * gallery.height // 100))  # 5 of 12 rows
    found = [Image.open(file) for file in sorted((folder / 'detector/pictures').glob('*'))[:3]]
    width = gallery.width // len(found)
    found = [one.resize((width, width * one.height // one.width)) for one in found]
    sheet = Image.new('RGB', (gallery.width, gallery.height + found[0].height), 'white')
    sheet.paste(gallery)
    for number, one in enumerate(found):
        sheet.paste(one, (number * width, gallery.height))
    sheet.thumbnail((1000, 1000))
    sheet.save(path, quality=70)


def train_ill(folder: Path) -> dict[str, tuple[list[dict], list[str]]]:
    """Train each of :data:`ILL`; its log, and what the report says is wrong."""
    write_digits(folder / 'digits', 640, (4, 4), (1, 1))
    runs = {}
    for name, options in ILL.items():
        command = [sys.executable, 'tools/train.py', 'configs/demo/snclr_digits.py']
        data = f'train_dataloader.dataset.data_root={folder / "digits/unlabelled"}'
        command += ['--work-dir', str(folder / name), '--cfg-options', data]
        command += [f'{key}={value}' for key, value in (ALL | options).items()]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = read_log(folder / name)
        runs[name] = lines, judge(lines, Config.fromfile(folder / name / 'snclr_digits.py'))[0]
    return runs


def draw_curves(healthy: list[dict], ill: list[dict], name: str, path: Path) -> None:
    """Draw the curves of an ill run over those of a healthy one."""
    figure = Figure((9, 2.2), layout='constrained')
    for axis, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items()):
        for lines, label, color in ((healthy, 'healthy', 'tab:green'), (ill, name, 'tab:red')):
            shown = [line for line in lines if key in line]
            steps, values = ([line[k] for line in shown] for k in ('step', key))
            axis.plot(steps, values, color=color, label=label)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Make what the first argument names."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if sys.argv[1:] == ['demo']:
            demo = [sys.executable, ROOT / 'tools/demo.py', '--out', folder]
            subprocess.run(demo, check=True)
            draw_results(folder, DOCS / 'results.jpg')
        elif sys.argv[1:] == ['tutorial']:
            nbformat.write(run_tutorial(folder), DOCS / 'tutorial.ipynb')
        elif sys.argv[1:] == ['report']:
            runs = train_ill(folder)
            for ill, (lines, problems) in runs.items():
                print(f'{ill}: {" ".join(problems) or "nothing is wrong"}')
                if ill != 'healthy':
                    draw_curves(runs['healthy'][0], lines, ill, DOCS / f'report_{ill}.png')
        else:
            raise SystemExit(__doc__)


if __name__ == '__main__':
    main()
