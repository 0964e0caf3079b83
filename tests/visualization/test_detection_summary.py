"""What a detection's summary says beside the numbers."""

from mmsnclr.visualization.detection_summary import ap_limit


def test_the_limit_of_detections_is_named_where_images_have_more_objects():
    def of(*counts):
        images = [dict(id=number) for number in range(len(counts))]
        objects = [dict(image_id=i, iscrowd=0) for i, n in enumerate(counts) for _ in range(n)]
        return dict(images=images, annotations=[*objects, dict(image_id=0, iscrowd=1)])

    assert ap_limit(of(100, 3)) == ''
    assert '2 of 3 images have more than 100 objects, up to 120' in ap_limit(of(101, 3, 120))
