"""Errors and warnings after the training data have been read."""

import json

import pytest
from mmengine.config import Config

from tests.tools.conftest import CATEGORIES, call, coco_content, data_dir, run_config  # noqa: F401  (fixtures)


@pytest.fixture
def train(call, run_config, data_dir, tmp_path):  # noqa: F811
    """``train(change, **dataset)`` calls ``change(i, annotation)`` on all annotations, and trains one epoch on them."""

    def run(change, **dataset):
        # Write the changed annotations.
        content = coco_content(5)
        for i, annotation in enumerate(content['annotations']):
            change(i, annotation)
        path = tmp_path / 'train.json'
        path.write_text(json.dumps(content))
        # Train on them.
        cfg = Config.fromfile(run_config)
        cfg.train_dataloader.dataset.update(ann_file=str(path), **dataset)
        cfg.train_cfg.max_epochs, cfg.param_scheduler, cfg.val_dataloader = 1, [], None
        cfg.val_cfg = cfg.val_evaluator = None
        cfg.experiment_name = f'{tmp_path.parent.name}-{tmp_path.name}'
        cfg.dump(tmp_path / 'own.py')
        return call('train', tmp_path / 'own.py', '--work-dir', tmp_path / 'run')

    return run


@pytest.mark.parametrize(
    ('change', 'dataset', 'message'),
    [
        (lambda i, a: a.update(iscrowd=1), {}, '15 x crowd or ignored box'),
        (lambda i, a: a.update(bbox=[5, 5, 0.5, 9]), {}, 'no box at all'),
        (lambda i, a: a.pop('bbox'), dict(bad_annotations='skip'), 'no box at all'),
    ],
)
def test_training_without_boxes_is_rejected(train, tmp_path, change, dataset, message):
    outcome = train(change, **dataset)
    assert outcome.status == 2
    error = outcome.err.strip().splitlines()[-1]
    assert error.startswith(f'error: {tmp_path}/train.json: no box to train on in 5 images ({message}')
    assert not list(tmp_path.glob('run/**/*.pth'))


def test_training_uses_boxes_with_area_field_zero(train, tmp_path):
    """MMDetection would leave all these boxes out."""
    assert train(lambda i, a: a.update(area=0)).status == 0
    assert (tmp_path / 'run/epoch_1.pth').is_file()


@pytest.mark.parametrize('box', [[1, 2, 0, 9], [1, 2, 0.5, 9]])
def test_left_out_annotations_are_reported_at_start_and_end(train, box):
    def spoil(i, annotation):
        if i < 2:
            annotation['bbox'] = box

    outcome = train(spoil, bad_annotations='skip')
    assert outcome.status == 0
    text = outcome.out + outcome.err
    assert text.count('train.json: 2 of 15 annotations were left out as defective or under one pixel') == 2
    assert outcome.out.splitlines()[-2].startswith('Warning: ')
