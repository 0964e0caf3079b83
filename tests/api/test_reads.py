"""Each checkpoint that a verb is given is read once."""

from collections import Counter

import pytest
from helpers import count_reads, pretrained_resnet

from mmsnclr.api import export
from mmsnclr.api.detect import detect
from mmsnclr.api.embed import embed
from mmsnclr.api.predict import predict
from mmsnclr.api.pretrain import pretrain


def test_detection_reads_each_start_and_the_detector_once(scenes, tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    from pycocotools.cocoeval import COCOeval

    starts = [pretrained_resnet(tmp_path / name) for name in ('one.pth', 'other.pth')]
    rated, accumulate = Counter(), COCOeval.accumulate

    def counting(evaluation, *args):
        rated[evaluation.params.iouType] += 1
        return accumulate(evaluation, *args)

    monkeypatch.setattr(COCOeval, 'accumulate', counting)
    reads = count_reads(monkeypatch)
    detection = detect(
        scenes / 'train.json',
        scenes / 'train',
        starts[0],
        tmp_path / 'out',
        val_json=scenes / 'val.json',
        val_images=scenes / 'val',
        compare=starts[1],
        size=64,
        iterations=2,
        batch=2,
        workers=0,
    )
    assert reads == {str(path): 1 for path in starts}
    assert rated == dict(bbox=2, segm=2)  # each kind once for each of the runs

    reads.clear()
    predict(detection.checkpoint, scenes / 'val', tmp_path / 'found')
    assert reads == {str(detection.checkpoint): 1}


def test_embedding_and_exporting_read_the_checkpoint_once(trained, digits, tmp_path, monkeypatch):
    checkpoint = trained / 'epoch_2.pth'
    reads = count_reads(monkeypatch)
    embed(checkpoint, [digits / 'labelled' / 'val'], tmp_path / 'features')
    assert reads == {str(checkpoint): 1}
    reads.clear()
    export(checkpoint, tmp_path / 'backbone.pth', 'mmpretrain')
    assert reads == {str(checkpoint): 1}


def test_pretraining_reads_what_it_starts_from_once(digits, tmp_path, monkeypatch):
    start = pretrained_resnet(tmp_path / 'start.pth')
    width = {'model.backbone.base_channels': 16, 'model.backbone.stem_channels': 16}
    reads = count_reads(monkeypatch)
    pretrain(
        [digits / 'unlabelled'],
        tmp_path / 'run',
        backbone='r18',
        init=start,
        epochs=1,
        batch=32,
        size=32,
        workers=0,
        cfg_options=width | {'model.neck.in_channels': 128},
    )
    assert reads.pop(str(start)) == 1
    # The run's own copy is handed down; the new checkpoint is looked at when it is named.
    assert reads == {str(tmp_path / 'run' / 'epoch_1.pth'): 1}
