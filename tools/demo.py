"""The main job on embedded data: unlabelled pictures in, a better detector out.

Pretrains a small ResNet on unlabelled pictures of handwritten digits, measures
it by k-NN and linear evaluation, draws nearest neighbours, and trains Mask
R-CNN from the pretrained and from a random backbone.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmsnclr.datasets.digits import write_digits
from mmsnclr.engine.run import load_run
from mmsnclr.evaluation import evaluate_knn
from mmsnclr.evaluation.representation import represent
from mmsnclr.visualization import draw_neighbors, find_neighbors

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'demo'


def train(config: str, work_dir: Path, options: dict) -> dict:
    """Run tools/train.py, show its progress, and return the last values it logged."""
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(CONFIGS / config)]
    command += ['--work-dir', str(work_dir)]
    command += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    print(f'$ tools/train.py configs/demo/{config} --work-dir {work_dir}', flush=True)
    last = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            last = [*last[-29:], line]
            message = line.partition('mmengine - INFO - ')[2]
            if message.startswith(('Epoch(', 'Iter(', 'Neighbours')):
                print('   ', message.rstrip(), flush=True)
    if process.returncode:
        raise SystemExit(f'{"".join(last)}\n{config} failed; its log is in {work_dir}')
    log = max(work_dir.glob('*/vis_data/scalars.json'))  # folders are named by time
    values = {}
    for line in log.read_text().splitlines():
        values.update(json.loads(line))
    return values


def draw(checkpoint: Path, data: Path, path: Path) -> None:
    """Draw validation pictures with their nearest neighbours."""
    _, model = load_run(checkpoint)
    loader = Config.fromfile(CONFIGS / 'linear_digits.py').val_dataloader
    loader.dataset.data_root = str(data / 'labelled')
    images = represent(model, Runner.build_dataloader(loader), progress=False)
    draw_neighbors(find_neighbors(model, images), path)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--quick', action='store_true', help='a minute, with figures to match')
    args = parser.parse_args()
    started = time.monotonic()
    out = args.out.resolve()
    data = out / 'digits'

    def step(number: int, text: str) -> None:
        minutes = (time.monotonic() - started) / 60
        print(f'\n== [{number}/6, {minutes:.1f} min] {text}', flush=True)

    step(1, f'Drawing pictures of digits into {data}')
    sizes = dict(unlabelled=512, labelled=(200, 100), scenes=(16, 8)) if args.quick else {}
    shutil.rmtree(data, ignore_errors=True)
    write_digits(data, **sizes)

    epochs, iters = (2, 10) if args.quick else (32, 300)
    step(2, 'Pretraining on the unlabelled pictures')
    options = {'train_dataloader.dataset.data_root': data / 'unlabelled'}
    if args.quick:
        options |= {
            'train_cfg.max_epochs': epochs,
            'custom_hooks.0.warmup_epochs': 1,
            'model.queue.length': 300,
            'train_dataloader.batch_size': 128,
        }
    train('snclr_digits.py', out / 'snclr', options)
    checkpoint = out / 'snclr' / f'epoch_{epochs}.pth'

    step(3, 'k-NN accuracy of the pretrained and of a random backbone')
    cfg = Config.fromfile(CONFIGS / 'linear_digits.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data / 'labelled')
    cfg.model.backbone.init_cfg = None
    knn_random = evaluate_knn(cfg, [20], progress=False)[20]
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'
    )
    knn = evaluate_knn(cfg, [20], progress=False)[20]
    print(f'    k-NN top-1: pretrained {knn:.1f} %, random {knn_random:.1f} %')
    draw(checkpoint, data, out / 'neighbors.png')

    step(4, 'Linear evaluation')
    options = {
        'model.backbone.init_cfg.checkpoint': checkpoint,
        'train_dataloader.dataset.data_root': data / 'labelled',
        'val_dataloader.dataset.data_root': data / 'labelled',
    }
    if args.quick:
        options |= {'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': epochs}
    linear = train('linear_digits.py', out / 'linear', options)['accuracy/top1']

    scenes = data / 'scenes'
    options = {
        'train_dataloader.dataset.data_root': scenes,
        'val_dataloader.dataset.data_root': scenes,
        'val_evaluator.ann_file': scenes / 'val.json',
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
    }
    ap = {}
    for number, name, init in (
        (5, 'pretrained', {'model.backbone.init_cfg.checkpoint': checkpoint}),
        (6, 'random', {'model.backbone.init_cfg': None}),
    ):
        step(number, f'Mask R-CNN from the {name} backbone')
        values = train('maskrcnn_digits.py', out / f'maskrcnn_{name}', options | init)
        ap[name] = {  # no value where nothing was detected
            kind: f'{100 * values.get(f"coco/{kind}_mAP", 0):.1f}' for kind in ('bbox', 'segm')
        }

    minutes = (time.monotonic() - started) / 60
    summary = f"""# mmsnclr demo

SNCLR pretrained a ResNet-18 of width 16 on unlabelled pictures of one
handwritten digit each; Mask R-CNN learned to find digits in scenes. Measured
on validation pictures of digits seen in no training picture
({minutes:.1f} minutes in all{', the quick form: too short to learn much' if args.quick else ''}).

| | pretrained backbone | random backbone |
| --- | ---: | ---: |
| k-NN top-1 (k = 20), % | {knn:.1f} | {knn_random:.1f} |
| linear evaluation top-1, % | {linear:.1f} | |
| Mask R-CNN box AP, {iters} iterations | {ap['pretrained']['bbox']} | {ap['random']['bbox']} |
| Mask R-CNN mask AP, {iters} iterations | {ap['pretrained']['segm']} | {ap['random']['segm']} |

Queries, their nearest neighbours and their positiveness relative to the row's
highest; green frames are of the query's class:

![Nearest neighbours](neighbors.png)

| what | where |
| --- | --- |
| SNCLR checkpoint | `snclr/{checkpoint.name}` |
| linear classifier | `linear/` |
| Mask R-CNN | `maskrcnn_pretrained/`, `maskrcnn_random/` |
| pictures and annotations | `digits/` |
"""
    (out / 'summary.md').write_text(summary)
    print(f'\n{summary}\nThis summary: {out / "summary.md"}')


if __name__ == '__main__':
    main()
