"""Each checkpoint that a verb is given is read once."""

from collections import Counter

import pytest
from helpers import count_reads, pretrained_resnet

from mmsnclr.api.detect import detect
from mmsnclr.api.predict import predict


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
