"""The gallery: matching with one exemplar, the choice of images, and the tool."""

import json

import cv2
import numpy as np
import pytest

from dinor1.studies.gallery import Annotated, draw_targets, match_objects, read_annotated
from dinor1.utils.errors import InputError
from dinor1.visualization.found_objects import FALSE, FOUND, MISSED, FoundObjects, draw_found
from tests.model_files import random_image

A, B, C, D = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]


def boxes(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


@pytest.fixture
def annotation_file(tmp_path):
    """Three images with boxes of two classes, and a crowd."""
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'{i}.png'), random_image(60, 80, seed=i))
    cells = [(0, 1, A), (0, 1, B), (0, 2, C), (1, 1, A), (2, 2, B), (2, 2, C), (2, 2, D)]
    annotations = [
        dict(id=i + 1, image_id=image, category_id=c, bbox=[x1, y1, x2 - x1, y2 - y1], area=100, iscrowd=int(i == 6))
        for i, (image, c, (x1, y1, x2, y2)) in enumerate(cells)
    ]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=80, height=60) for i in range(3)],
        annotations=annotations,
        categories=[dict(id=1, name='cup'), dict(id=2, name='pen')],
    )
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    return path


def test_read_annotated_groups_boxes_by_image_and_class(annotation_file, tmp_path):
    groups = read_annotated(annotation_file, tmp_path)
    assert [(item.path[-5:], item.name, item.boxes.tolist()) for item in groups] == [
        ('0.png', 'cup', [A, B]), ('0.png', 'pen', [C]), ('1.png', 'cup', [A]), ('2.png', 'pen', [B, C]),
    ]  # fmt: skip


def test_match_objects_separates_found_missed_and_false():
    """Of the objects B, C and D one is found twice, one is missed; detections of the exemplar A do not count."""
    near = [21, 0, 31, 10]
    detections = boxes(A, B, [0, 1, 10, 10], near, C, [70, 20, 80, 30])
    objects = match_objects(detections, np.linspace(0.9, 0.4, 6), boxes(B, C, D), boxes(A))
    assert objects.found.tolist() == [B, C]
    assert objects.missed.tolist() == [D]
    assert objects.false.tolist() == [near, [70, 20, 80, 30]]
    assert objects.found_scores == pytest.approx([0.8, 0.5])
    assert objects.false_scores == pytest.approx([0.6, 0.4])
    assert objects.summary() == 'found 2 of 3, 2 false'


def test_match_objects_without_detections_misses_all():
    objects = match_objects(boxes(), np.zeros(0), boxes(B), boxes())
    assert objects.summary() == 'found 0 of 1, 0 false'
    # A lone detection on an image without other objects is false.
    assert match_objects(boxes(B), np.ones(1), boxes(), boxes(A)).summary() == 'found 0 of 0, 1 false'


def test_draw_targets_alternates_classes_and_repeats_no_image():
    annotated = [Annotated(f'{i}', name, boxes(A, B)) for i, name in enumerate(['cup'] * 8 + ['pen'] * 2)]
    annotated.append(Annotated('10', 'ant', boxes(A)))
    chosen = draw_targets(annotated, 5, seed=0, min_boxes=2)
    assert [item.name for item in chosen[:2]] in (['cup', 'pen'], ['pen', 'cup'])
    assert sorted(item.name for item in chosen) == ['cup'] * 3 + ['pen'] * 2
    assert len({item.path for item in chosen}) == 5
    # Two classes on one image.
    same = [Annotated('0', name, boxes(A, B)) for name in ('cup', 'pen')]
    assert len(draw_targets(same, 5, seed=0, min_boxes=2)) == 1
    with pytest.raises(InputError, match='no image has 3 boxes of one class'):
        draw_targets(annotated, 5, seed=0, min_boxes=3)


def test_draw_found_uses_a_colour_for_each_kind():
    image = np.zeros((40, 80, 3), np.uint8)
    drawn = draw_found(image, FoundObjects(boxes(A), boxes(B), boxes(C), boxes(D), [0.9], [0.8]), 'cup', side=320)
    assert drawn.shape == (160 + 20, 320, 3)
    for corner, color in ((0, FOUND), (20, MISSED), (40, FALSE), (60, (255, 255, 255))):
        # The lower edge of a box.
        assert tuple(drawn[20 + 40, 4 * (corner + 5)]) == color
    assert not image.any()


@pytest.mark.parametrize('support', [False, True])
def test_draw_gallery_writes_a_sheet(call, model_files, annotation_file, tmp_path, support):
    out = tmp_path / 'sheet.png'
    options = ['--support', annotation_file, tmp_path] if support else []
    model = ['--model', model_files.config, model_files.checkpoint, '--score-thr', '0']
    outcome = call('analysis_tools/draw_gallery', annotation_file, tmp_path, *model, *options, '--out', out)
    assert outcome.status == 0
    # Images with two boxes of a class, or with one if the exemplar is elsewhere.
    count = 3 if support else 2
    assert outcome.out.startswith(f'{count} images: found ')
    assert cv2.imread(str(out)).shape[1] == count * 368 + 8


def test_draw_gallery_rejects_bad_input(call, annotation_file, tmp_path):
    arguments = [annotation_file, tmp_path, '--out']
    for wrong, message in (
        ([*arguments, tmp_path], 'is a folder'),
        ([*arguments, tmp_path / 'a.png', '--number', '0'], '--number must be at least 1'),
        ([tmp_path / 'absent.json', tmp_path, '--out', tmp_path / 'a.png'], 'absent.json'),
    ):
        outcome = call('analysis_tools/draw_gallery', *wrong)
        assert outcome.status == 2
        assert message in outcome.err
        assert outcome.err.count('\n') == 1
