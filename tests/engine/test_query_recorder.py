"""The query recorder in the prompted loops, compared with direct calls of the detector."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinor1.engine import QueryRecorder, Runner
from dinor1.utils.errors import InputError
from tests.conftest import tiny_config


@pytest.fixture
def evaluate(read_shapes_config, tmp_path):
    """``evaluate(name)`` tests, or validates, a random tiny detector on eight images with the recorder."""
    cfg = read_shapes_config('configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py')

    def run(name, options=None, prompts='VisualGeneric', split='test', recorder=None):
        own = copy.deepcopy(cfg)
        own.merge_from_dict({'model': tiny_config()['model'].to_dict(), 'model.bbox_head.num_classes': 16})
        own.merge_from_dict(options or {})
        own.train_dataloader = own.train_cfg = own.optim_wrapper = own.param_scheduler = None
        other = dict(test='val', val='test')[split]
        own[f'{other}_dataloader'] = own[f'{other}_cfg'] = own[f'{other}_evaluator'] = None
        own[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False, batch_size=3)
        own[f'{split}_cfg'].query_recorder = recorder or {}
        settings = dict(num_exemplars=2) if prompts == 'VisualGeneric' else {}
        own[f'{split}_cfg'].prompts = dict(type=prompts, **settings)
        own.default_hooks.pop('visualization')
        own.visualizer.vis_backends = [dict(type='LocalVisBackend')]
        own.work_dir, own.log_level = str(tmp_path / name), 'ERROR'
        own.experiment_name = f'{tmp_path.name}-{name}'
        runner = Runner.from_cfg(own)
        torch.manual_seed(0)
        runner.model.init_weights()
        getattr(runner, split)()
        (record,) = Path(own.work_dir).glob('queries_*.json')
        assert record.stem == dict(test='queries_test', val='queries_val_epoch_0')[split]
        return runner, json.loads(record.read_text())

    return run


@pytest.mark.parametrize('protocol', ['VisualGeneric', 'VisualInteractive'])
def test_query_recorder_counts(evaluate, protocol):
    runner, record = evaluate(protocol, prompts=protocol)
    instances = sum(len(runner.test_dataloader.dataset[i]['data_samples'].gt_instances) for i in range(8))
    # Under visual-generic, a class may be missing from the 24 training images; it is then not offered.
    assert 0 < record['objects'] <= instances
    assert record['objects'] == instances or protocol == 'VisualGeneric'
    assert 1 <= record['distinct_queries'] <= 2
    assert len(record['covering']) == 2
    assert all(sum(layer) == record['objects'] and len(layer) == 12 for layer in record['matched_places'])
    assert 0 < record['objectness_entropy'] <= np.log(2) + 1e-6
    assert 0 <= record['absent_class_share'] <= 1
    figure = cv2.imread(str(Path(runner.work_dir) / 'vis/queries_test.png'))
    assert figure is not None
    assert figure.std() > 0


def test_query_recorder_validation_equals_test(evaluate):
    _, tested = evaluate('tested')
    runner, validated = evaluate('validated', split='val', recorder=dict(figure=False))
    assert validated == tested
    assert not (Path(runner.work_dir) / 'vis').exists()


def test_query_recorder_counts_every_image_once_over_processes(evaluate, monkeypatch):
    """Three processes share eight images; the last process repeats the first image, to have three as well."""
    _, alone = evaluate('alone')
    monkeypatch.setattr(
        'dinor1.engine.query_recorder.all_gather_object',
        lambda images: [(images + images[:1])[rank::3] for rank in range(3)],
    )
    _, shared = evaluate('shared')
    assert shared == alone


def test_query_recorder_last_layer_equals_detections(evaluate):
    """The share of covered objects in the last layer equals that of the detector's boxes."""
    runner, record = evaluate('run')
    prompts = runner.test_loop.prompts
    without_exemplar = prompts.description.get('without_exemplar', [])
    covering, objects = 0, 0
    runner.model.eval()
    for index in range(8):
        # Predict boxes in pixels.
        item = runner.test_dataloader.dataset[index]
        batch = runner.model.data_preprocessor({key: [value] for key, value in item.items()}, False)
        sample = batch['data_samples'][0]
        with torch.no_grad():
            _, boxes = runner.model(**batch, mode='tensor', prompts=prompts.of([sample]))
        height, width = sample.img_shape
        centre, size = boxes[-1, 0].chunk(2, -1)
        corners = torch.cat([centre - size / 2, centre + size / 2], -1) * torch.tensor([width, height, width, height])
        # Count the objects of offered classes that a box covers.
        names = runner.test_dataloader.dataset.metainfo['classes']
        asked = [names[label] not in without_exemplar for label in sample.gt_instances.labels]
        truth = sample.gt_instances.bboxes[asked]
        low = torch.maximum(corners[:, None, :2], truth[None, :, :2])
        high = torch.minimum(corners[:, None, 2:], truth[None, :, 2:])
        inner = (high - low).clamp(min=0).prod(-1)
        union = (corners[:, 2:] - corners[:, :2]).prod(-1)[:, None] + (truth[:, 2:] - truth[:, :2]).prod(-1) - inner
        covering, objects = covering + int((inner / union >= 0.5).sum()), objects + len(truth)
    assert record['objects'] == objects
    assert record['covering'][-1] == pytest.approx(covering / objects)


def test_query_recorder_rejects_bad_input(evaluate):
    with pytest.raises(InputError, match='min_iou'):
        QueryRecorder(min_iou=0)
    with pytest.raises(InputError, match='chunked_size'):
        evaluate('run', {'model.test_cfg.chunked_size': 3})
    with pytest.raises(InputError, match='Linear takes no prompts; remove query_recorder'):
        QueryRecorder().start(torch.nn.Linear(1, 1))
