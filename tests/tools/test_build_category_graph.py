"""tools/build_category_graph.py: a graph from a file, and one-line errors."""

import json

import pytest

from tests.tools.conftest import coco_content


@pytest.fixture
def build(call, tmp_path):
    """``build(content, *options)`` builds a graph from a file with this content."""

    def run(content, *options):
        path = tmp_path / 'train.json'
        path.write_text(json.dumps(content))
        return call('build_category_graph', path, '--out', tmp_path / 'graph.safetensors', *options)

    return run


def test_build_category_graph_writes_graph(build, tmp_path):
    outcome = build(coco_content(3), '--topk', 1, '--pe-dim', 2)
    assert outcome.status == 0
    assert outcome.out.startswith('3 classes, 0 parents')
    assert (tmp_path / 'graph.safetensors').is_file()


def changed(section, entry, **values):
    content = coco_content(3)
    content[section][entry] = content[section][entry] | values
    return content


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([], 'no categories'),
        (dict(categories={'a': 1}), 'no categories'),
        (dict(categories=['a']), 'category number 0 has no id or no name'),
        (changed('categories', 1, id='x'), 'category number 1 has no id or no name'),
        (changed('categories', 1, name=['x']), 'category number 1 has no id or no name'),
        (changed('categories', 1, name='apple'), "name 'apple' occurs 2 times in 'categories'"),
        (changed('categories', 1, id=0), "id 0 occurs 2 times in 'categories'"),
        (changed('categories', 1, supercategory=3), 'category number 1: supercategory is not a string'),
        (coco_content(3) | dict(images=3), 'no images or no annotations'),
        (coco_content(3) | dict(images=[3]), 'image number 0 has no id'),
        (coco_content(3) | dict(annotations=[3]), 'annotation number 0 has no image_id'),
        (changed('annotations', 2, image_id=[1]), 'annotation number 2 has no image_id'),
        (changed('annotations', 2, category_id={}), 'annotation number 2 has no category_id'),
        (changed('annotations', 2, image_id=77), 'refers to unknown image 77'),
    ],
)
def test_build_category_graph_bad_file(build, tmp_path, content, message):
    outcome = build(content)
    lines = outcome.err.splitlines()
    assert outcome.status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f'error: {tmp_path / "train.json"}: ')
    assert message in lines[0]
    assert not (tmp_path / 'graph.safetensors').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--topk', 0], '--topk must be at least 1, got 0'),
        (['--min-pmi', 'nan'], '--min-pmi must be finite, got nan'),
        (['--pe-dim', -1], '--pe-dim must be at least 0, got -1'),
        (['--nfe', 0, 1, 0.1], '--nfe DIM must be a whole number of at least 1, got 0'),
        (['--nfe', 8, 1.5, 0.1], '--nfe EPOCHS must be a whole number of at least 1, got 1.5'),
        (['--nfe', 8, 1, -1], '--nfe LR must be positive and finite, got -1'),
        (['--min-prob', 2], '--min-prob must be in [0, 1], got 2'),
        (['--seed', -1], '--seed must be in [0, 2^63), got -1'),
        (['--complete', 'near'], '--complete near: no such relation; give one of hypernym, hyponym'),
        (['--complete', 'co_occurs', '--no-images'], '--complete: cannot hold out'),
        (['--out', 'graph.json'], '--out graph.json: expected a file name that ends in .safetensors'),
    ],
)
def test_build_category_graph_bad_options(build, tmp_path, options, message):
    outcome = build(coco_content(3), *options)
    lines = outcome.err.splitlines()
    assert outcome.status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f'error: {message}')
    assert not (tmp_path / 'graph.safetensors').exists()
