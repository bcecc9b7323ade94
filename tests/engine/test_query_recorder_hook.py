"""The recorder in the Runner's test loop, against the detector asked directly."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from dinor1.engine import QueryRecorderHook
from dinor1.utils.errors import InputError
from tests.conftest import tiny_config


@pytest.fixture
def test_run(shapes_dir, repo, tmp_path, monkeypatch):
    """``test_run(protocol)`` tests a random tiny detector on eight images with the recorder."""
    from dinor1.utils.config import load_config

    monkeypatch.setenv('DINOR1_DATA', str(shapes_dir))
    cfg = load_config(repo / 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py')

    def run(name, options=None, **prompts):
        own = copy.deepcopy(cfg)
        own.merge_from_dict({'model': tiny_config()['model'].to_dict(), 'model.bbox_head.num_classes': 16})
        own.merge_from_dict(options or {})
        own.train_dataloader = own.train_cfg = own.optim_wrapper = own.param_scheduler = None
        own.val_dataloader = own.val_cfg = own.val_evaluator = None
        own.test_dataloader.update(num_workers=0, persistent_workers=False, batch_size=3)
        own.default_hooks.pop('visualization')
        own.default_hooks.prompts.update(prompts)
        own.default_hooks.queries = dict(type='QueryRecorderHook')
        own.visualizer.vis_backends = [dict(type='LocalVisBackend')]
        own.work_dir, own.log_level = str(tmp_path / name), 'ERROR'
        own.experiment_name = f'{tmp_path.name}-{name}'
        runner = Runner.from_cfg(own)
        torch.manual_seed(0)
        runner.model.init_weights()
        runner.test()
        return runner, json.loads((Path(own.work_dir) / 'queries_test.json').read_text())

    return run


@pytest.mark.parametrize('protocol', ['visual-generic', 'visual-interactive'])
def test_counts(test_run, protocol):
    runner, record = test_run(protocol, protocol=protocol, num_exemplars=2)
    instances = sum(len(runner.test_dataloader.dataset[i]['data_samples'].gt_instances) for i in range(8))
    # Under visual-generic 24 training images may lack a class, which then nobody is asked for.
    assert 0 < record['objects'] <= instances
    assert record['objects'] == instances or protocol == 'visual-generic'
    assert 1 <= record['distinct_queries'] <= 2
    assert len(record['covering']) == 2
    assert all(sum(layer) == record['objects'] and len(layer) == 12 for layer in record['matched_places'])
    assert 0 < record['objectness_entropy'] <= np.log(2) + 1e-6
    assert 0 <= record['absent_class_share'] <= 1
    picture = cv2.imread(str(Path(runner.work_dir) / 'vis/queries_test.png'))
    assert picture is not None
    assert picture.std() > 0
    # No hook of torch is left behind.
    assert not runner.model.bbox_head._forward_hooks


def test_several_processes_count_every_image_once(test_run, monkeypatch):
    """Three processes share eight images: the last one repeats the first image, to have three as well."""
    _, alone = test_run('alone', num_exemplars=2)
    monkeypatch.setattr(
        'dinor1.engine.hooks.query_recorder.all_gather_object',
        lambda images: [(images + images[:1])[rank::3] for rank in range(3)],
    )
    _, shared = test_run('shared', num_exemplars=2)
    assert shared == alone


def test_the_last_layer_is_what_the_detector_reports(test_run):
    """Detections are the boxes of the last layer: of one that covers an object the recorder knows as well."""
    runner, record = test_run('run', num_exemplars=2)
    protocol = next(hook for hook in runner.hooks if hasattr(hook, 'protocol'))
    protocol.before_test_epoch(runner)
    covering, objects = 0, 0
    for index in range(8):
        data = dict(inputs=[], data_samples=[])
        item = runner.test_dataloader.dataset[index]
        data['inputs'].append(item['inputs'])
        data['data_samples'].append(item['data_samples'])
        protocol.before_test_iter(runner, 0, data)
        runner.model.eval()
        with torch.no_grad():
            batch = runner.model.data_preprocessor(data, False)
            _, boxes = runner.model(**batch, mode='tensor')
        sample = batch['data_samples'][0]
        height, width = sample.img_shape
        centre, size = boxes[-1, 0].chunk(2, -1)
        corners = torch.cat([centre - size / 2, centre + size / 2], -1) * torch.tensor([width, height, width, height])
        names = runner.test_dataloader.dataset.metainfo['classes']
        asked = [names[label] not in protocol.without_exemplar for label in sample.gt_instances.labels]
        truth = sample.gt_instances.bboxes[asked]
        low = torch.maximum(corners[:, None, :2], truth[None, :, :2])
        high = torch.minimum(corners[:, None, 2:], truth[None, :, 2:])
        inner = (high - low).clamp(min=0).prod(-1)
        union = (corners[:, 2:] - corners[:, :2]).prod(-1)[:, None] + (truth[:, 2:] - truth[:, :2]).prod(-1) - inner
        covering, objects = covering + int((inner / union >= 0.5).sum()), objects + len(truth)
    assert record['objects'] == objects
    assert record['covering'][-1] == pytest.approx(covering / objects)


def test_refusals(test_run):
    with pytest.raises(InputError, match='min_iou'):
        QueryRecorderHook(min_iou=0)
    with pytest.raises(InputError, match='chunked_size'):
        test_run('run', {'model.test_cfg.chunked_size': 3})

    class Runner:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(InputError, match='no prompts to answer for'):
        QueryRecorderHook().before_test_epoch(Runner)
