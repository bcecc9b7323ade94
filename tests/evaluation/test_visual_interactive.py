"""The draw of visual-interactive prompts, and repeated runs."""

import json

import pytest

from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import draw_interactive
from dinor1.evaluation.seed_average import mean_and_std


@pytest.fixture
def dataset(tmp_path):
    """``dataset(order)``: 30 images; image i shows i % 4 classes, 10 boxes of each, and a crowd of every class."""

    def make(order=range(30)):
        # Add boxes and a crowd of every class.
        annotations = []
        for i in order:
            for category in range(1, 5):
                for j in range(10 if category <= i % 4 else 0):
                    annotations.append(dict(image_id=i, category_id=category, bbox=[j, category, 20, 20], iscrowd=0))
                annotations.append(dict(image_id=i, category_id=category, bbox=[40, 40, 20, 20], iscrowd=1))
        content = dict(
            images=[dict(id=i, file_name=f'{i}.png', width=100, height=80) for i in order],
            annotations=[dict(a, id=n, area=400) for n, a in enumerate(annotations)],
            categories=[dict(id=c, name=f'class {c}') for c in range(1, 5)],
        )
        # Write the file; images are empty, because they are not loaded.
        path = tmp_path / f'{order[0]}.json'
        path.write_text(json.dumps(content))
        for i in range(30):
            (tmp_path / f'{i}.png').touch()
        prefix = dict(img=str(tmp_path))
        return CocoPromptDataset(ann_file=str(path), data_prefix=prefix, pipeline=[], test_mode=True)

    return make


def test_draw_interactive_has_one_box_per_shown_class(dataset):
    drawn = draw_interactive(dataset())
    assert sorted(drawn) == list(range(30))
    for image, exemplars in drawn.items():
        assert [e.label for e in exemplars] == list(range(image % 4))
        assert all(e.img_id == image and e.bbox[1] == e.label + 1 and e.bbox[0] < 10 for e in exemplars)


def test_draw_interactive_depends_on_image_and_seed_only(dataset):
    def boxes(order, seed):
        return {image: [e.bbox for e in es] for image, es in draw_interactive(dataset(order), seed).items()}

    first = boxes(range(30), 0)
    assert boxes(range(29, -1, -1), 0) == first
    assert boxes(range(30), 1) != first
    subset = boxes(range(10, 20), 0)
    assert subset == {image: first[image] for image in range(10, 20)}


def test_draw_interactive_is_uniform_over_boxes(dataset):
    ones = dataset(range(1, 30, 4))
    counts = [0] * 10
    for seed in range(200):
        for exemplars in draw_interactive(ones, seed).values():
            counts[int(exemplars[0].bbox[0])] += 1
    # 1600 draws of ten boxes: 160 each with a standard deviation of 12; the limit is five of these.
    assert sum(counts) == 1600
    assert all(abs(n - 160) < 60 for n in counts)


def test_mean_and_std_over_runs():
    mean, std = mean_and_std([dict(ap=0.1, small=-1), dict(ap=0.2, small=-1), dict(ap=0.6, small=-1)])
    assert mean == dict(ap=pytest.approx(0.3), small=-1)
    assert std == dict(ap=pytest.approx(0.07**0.5), small=0)
    assert mean_and_std([dict(ap=0.5)]) == (dict(ap=0.5), dict(ap=0))
    for wrong in ([], [dict(ap=1), dict(ar=1)]):
        with pytest.raises(ValueError, match='the same metrics'):
            mean_and_std(wrong)
