"""Protocols, run through the Runner's test loop with detectors whose right answer is known."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from dinor1.engine import PromptProtocolHook
from dinor1.models import DINOR1
from dinor1.registry import HOOKS, MODELS
from dinor1.utils.errors import InputError
from tests.conftest import tiny_config

CLASSES = ['apple', 'pear', 'plum', 'quince']
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=2.0, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


@MODELS.register_module()
class TruthTeller(DINOR1):
    """Answers with the ground truth of every class that it is asked for, and keeps what it was asked."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        features = self.encode_image(batch_inputs, batch_data_samples)
        for sample, prompts in zip(batch_data_samples, self.prompt_sets(features, batch_data_samples), strict=True):
            truth = sample.gt_instances
            asked = torch.isin(truth.labels, prompts.reported)
            self.asked.append((sample.img_id, [prompts.names[i] for i in prompts.reported.tolist()]))
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes[asked], labels=truth.labels[asked], scores=truth.labels[asked] * 0 + 1.0
            )
        return batch_data_samples


@MODELS.register_module()
class Deaf(DINOR1):
    """Ignores its prompts: always the same class, and the box of its first instance or of another class."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for sample in batch_data_samples:
            box = sample.gt_instances.bboxes[:1] if sample.img_id % 2 else torch.tensor([[22.0, 2, 37, 22]])
            label = torch.full((len(box),), 1)
            sample.pred_instances = InstanceData(bboxes=box, labels=label, scores=label * 0.5)
        return batch_data_samples


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight test images: image i shows classes 0 .. i % 4 - 1; training images show all classes but the last."""
    root = tmp_path_factory.mktemp('fruit')
    rng = np.random.default_rng(0)
    for split, shown in (('train', [3] * 4), ('test', [i % 4 for i in range(8)])):
        images, annotations = [], []
        for i, count in enumerate(shown):
            cv2.imwrite(str(root / f'{split}{i}.png'), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
            images.append(dict(id=i, file_name=f'{split}{i}.png', width=64, height=48))
            for c in range(count):
                for j in range(2):
                    box = [4 + 18 * c, 2 + 22 * j, 15, 20]
                    annotations.append(dict(image_id=i, category_id=c, bbox=box, area=300, iscrowd=0))
        categories = [dict(id=c, name=name) for c, name in enumerate(CLASSES)]
        annotations = [dict(a, id=n) for n, a in enumerate(annotations)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{split}.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def run(data, tmp_path):
    """``run('TruthTeller', protocol='text')`` gives the runner after its test, and the metrics."""

    def run(model_type, batch_size=3, **prompts):
        model = tiny_config(
            **{
                'model.type': model_type,
                'model.language_model': dict(type='WordHashModel', language_dim=64),
                'model.text_prompts': 'class',
            }
        ).model
        dataset = dict(type='CocoPromptDataset', data_prefix=dict(img=str(data)), pipeline=PIPELINE, test_mode=True)
        if prompts['protocol'] == 'visual-generic':
            prompts['prompt_dataset'] = dict(dataset, ann_file=str(data / 'train.json'))
        evaluator = dict(type='CocoPromptMetric', ann_file=str(data / 'test.json'))
        runner = Runner(
            model=ConfigDict(model),
            work_dir=str(tmp_path),
            default_scope='dinor1',
            randomness=dict(seed=0),
            test_dataloader=dict(
                batch_size=batch_size,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(dataset, ann_file=str(data / 'test.json')),
            ),
            test_cfg=dict(),
            test_evaluator=evaluator,
            default_hooks=dict(prompts=dict(type='PromptProtocolHook', **prompts)),
            experiment_name=f'{tmp_path.name}-{model_type}-{batch_size}-{prompts}',
            log_level='ERROR',
        )
        runner.model.asked = []
        # A test run loads its weights and initialises none.
        torch.manual_seed(0)
        runner.model.init_weights()
        return runner, runner.test()

    return run


PROTOCOLS = ['text', 'visual-generic', 'visual-interactive']


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_the_truth_scores_one(run, protocol):
    runner, metrics = run('TruthTeller', protocol=protocol)
    assert metrics['coco/bbox_mAP'] == 1.0
    asked = dict(runner.model.asked)
    assert sorted(asked) == list(range(8))
    if protocol == 'visual-interactive':
        # Nothing that the image does not show, and nothing where it shows nothing.
        assert all(names == CLASSES[: image % 4] for image, names in asked.items())
    else:
        offered = CLASSES if protocol == 'text' else CLASSES[:3]
        assert all(names == offered for names in asked.values())


def test_who_ignores_prompts_scores_the_same_under_any(run):
    scores = [run('Deaf', protocol=protocol)[1] for protocol in PROTOCOLS]
    scores.append(run('Deaf', protocol='visual-generic', seed=7, num_exemplars=1)[1])
    assert all(score == scores[0] for score in scores)
    assert 0 < scores[0]['coco/bbox_mAP'] < 1


@MODELS.register_module()
class Recorder(DINOR1):
    """Keeps the scores of every image."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        samples = super().predict(batch_inputs, batch_data_samples, rescale)
        self.asked += [(sample.img_id, sample.pred_instances.scores) for sample in samples]
        return samples


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_a_real_detector_takes_every_protocol_whatever_the_batch(run, protocol):
    """Image by image and in batches of two, which have other numbers of prompts: the same scores."""
    one, two = (dict(run('Recorder', batch_size=size, protocol=protocol)[0].model.asked) for size in (1, 2))
    for image in range(8):
        # Nothing is asked of images 0 and 4 under visual-interactive, and nothing found.
        assert len(one[image]) == (0 if protocol == 'visual-interactive' and image % 4 == 0 else 10)
        # float32; a batch of another size is summed in other blocks
        torch.testing.assert_close(one[image], two[image], atol=1e-4, rtol=0)


def test_the_draw_is_written_and_says_what_it_is(run, tmp_path):
    runner, _ = run('TruthTeller', protocol='visual-generic', num_exemplars=2, seed=3)
    hook = next(hook for hook in runner.hooks if isinstance(hook, PromptProtocolHook))
    assert hook.describe() == dict(protocol='visual-generic', num_exemplars=2, seed=3, without_exemplar=['quince'])
    generic = json.loads((tmp_path / 'prompts_visual-generic_n2_seed3.json').read_text())
    assert generic['without_exemplar'] == ['quince']
    assert len(generic['exemplars']) == 6

    run('TruthTeller', protocol='visual-interactive', seed=3)
    interactive = json.loads((tmp_path / 'prompts_visual-interactive_seed3.json').read_text())
    assert 'easier than visual-generic' in interactive['note']
    # Images 0 to 7 show 0, 1, 2, 3, 0, 1, 2, 3 classes.
    assert len(interactive['exemplars']) == 12


def test_interactive_boxes_are_in_pixels_of_the_network_input(run, data):
    """The pipeline doubles the picture, so a prompt box is twice its annotation."""
    seen = {}

    @MODELS.register_module(force=True)
    class Listener(Deaf):
        def predict(self, batch_inputs, batch_data_samples, rescale=True):
            for sample in batch_data_samples:
                seen[sample.img_id] = sample.prompt_instances
            return super().predict(batch_inputs, batch_data_samples, rescale)

    run('Listener', protocol='visual-interactive')
    truth = json.loads((data / 'test.json').read_text())['annotations']
    for image, prompts in seen.items():
        assert len(prompts.bboxes) == image % 4
        for box, label in zip(prompts.bboxes.tolist(), prompts.labels.tolist(), strict=True):
            x1, y1, x2, y2 = (value / 2 for value in box)
            assert any(
                a['image_id'] == image and a['category_id'] == label and a['bbox'] == [x1, y1, x2 - x1, y2 - y1]
                for a in truth
            )


def test_another_seed_is_another_draw(run):
    runner, _ = run('TruthTeller', protocol='visual-generic', num_exemplars=1, seed=0)
    hook = next(hook for hook in runner.hooks if isinstance(hook, PromptProtocolHook))
    draws = [hook.exemplars]
    for seed in (1, 2):
        hook.set_seed(seed)
        runner.test()
        draws.append(hook.exemplars)
    assert draws[0] != draws[1] != draws[2]


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="text, visual-generic, visual-interactive; got 'visual'"):
        HOOKS.build(dict(type='PromptProtocolHook', protocol='visual'))
    with pytest.raises(InputError, match='needs prompt_dataset'):
        HOOKS.build(dict(type='PromptProtocolHook'))
