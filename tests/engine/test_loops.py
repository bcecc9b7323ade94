"""Prompted loops and their protocols in the Runner, with detectors whose detections are known."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from dinor1.engine import PromptedTestLoop, Runner
from dinor1.engine.loops import build_protocol
from dinor1.evaluation import build_bank, draw_exemplars
from dinor1.models import DINOR1
from dinor1.registry import MODELS
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
    """Detects the ground truth of every offered class, and records the offered classes."""

    def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
        features = self.encode_image(batch_inputs, batch_data_samples)
        prompt_sets = self.prompt_sets(features, batch_data_samples, prompts)
        for sample, offered in zip(batch_data_samples, prompt_sets, strict=True):
            truth = sample.gt_instances
            asked = torch.isin(truth.labels, offered.reported)
            self.asked.append((sample.img_id, [offered.names[i] for i in offered.reported.tolist()]))
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes[asked], labels=truth.labels[asked], scores=truth.labels[asked] * 0 + 1.0
            )
        return batch_data_samples, []


@MODELS.register_module()
class Deaf(DINOR1):
    """Ignores its prompts: detects always the same class, at the box of its first instance or of another class."""

    def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
        for sample in batch_data_samples:
            box = sample.gt_instances.bboxes[:1] if sample.img_id % 2 else torch.tensor([[22.0, 2, 37, 22]])
            label = torch.full((len(box),), 1)
            sample.pred_instances = InstanceData(bboxes=box, labels=label, scores=label * 0.5)
        return batch_data_samples, []


@MODELS.register_module()
class Drifting(DINOR1):
    """Detects the ground truth, shifted by one more pixel with every new draw of prompts."""

    def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
        if not any(prompts is met for met in self.asked):
            self.asked.append(prompts)
        for sample in batch_data_samples:
            truth = sample.gt_instances
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes + len(self.asked) - 1, labels=truth.labels, scores=truth.labels * 0 + 1.0
            )
        return batch_data_samples, []


@MODELS.register_module()
class Recorder(DINOR1):
    """Records the scores of every image."""

    def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
        samples, passes = super().predict_and_output(batch_inputs, batch_data_samples, prompts, rescale)
        self.asked += [(sample.img_id, sample.pred_instances.scores) for sample in samples]
        return samples, passes


class WithoutPrompts(BaseModel):
    """A model that takes no prompts."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return data_samples


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight test images, of which image i shows classes 0 to i % 4 - 1; training images show all but the last class."""
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
def make(data, tmp_path):
    """``make(model, split, loop)`` builds a runner that only validates, or only tests, the eight test images."""

    def make(model, split, loop, batch_size=3, hooks=(), cfg=None, metric=None):
        if isinstance(model, str):
            model = ConfigDict(
                tiny_config(
                    **{
                        'model.type': model,
                        'model.prompts.language_model': dict(type='WordHashModel', language_dim=64),
                        'model.prompts.text_prompts': 'class',
                    }
                ).model
            )
        dataset = dict(type='CocoPromptDataset', data_prefix=dict(img=str(data)), pipeline=PIPELINE, test_mode=True)
        loader = dict(
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(dataset, ann_file=str(data / 'test.json')),
        )
        evaluator = dict(metric or dict(type='CocoPromptMetric'), ann_file=str(data / 'test.json'))
        make.count += 1
        runner = Runner(
            model=model,
            work_dir=str(tmp_path),
            default_scope='dinor1',
            randomness=dict(seed=0),
            **{f'{split}_dataloader': loader, f'{split}_cfg': loop, f'{split}_evaluator': evaluator},
            custom_hooks=list(hooks),
            experiment_name=f'{tmp_path.parent.name}-{tmp_path.name}-{make.count}',
            log_level='ERROR',
            cfg=dict(prompt_dataset=dict(dataset, ann_file=str(data / 'train.json'))) if cfg is None else cfg,
        )
        runner.model.asked = []
        # Draw the weights, because a test run only loads weights.
        torch.manual_seed(0)
        runner.model.init_weights()
        return runner

    make.count = 0
    return make


@pytest.fixture
def run(make):
    """``run('TruthTeller', 'TextPrompts')`` returns the runner after its test, and the metrics."""

    def run(model, protocol, batch_size=3, seeds=None, hooks=(), **settings):
        loop = dict(type='PromptedTestLoop', prompts=dict(type=protocol, **settings))
        if seeds is not None:
            loop['seeds'] = seeds
        runner = make(model, 'test', loop, batch_size, hooks)
        return runner, runner.test()

    return run


PROTOCOLS = ['TextPrompts', 'VisualGeneric', 'VisualInteractive']


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_prompted_test_loop_ground_truth_scores_one(run, protocol):
    runner, metrics = run('TruthTeller', protocol)
    assert metrics['coco/bbox_mAP'] == 1.0
    asked = dict(runner.model.asked)
    assert sorted(asked) == list(range(8))
    if protocol == 'VisualInteractive':
        # Only the classes that the image shows are offered.
        assert all(names == CLASSES[: image % 4] for image, names in asked.items())
    else:
        offered = CLASSES if protocol == 'TextPrompts' else CLASSES[:3]
        assert all(names == offered for names in asked.values())


def test_visual_interactive_metric_receives_exemplars(make):
    """The metric receives every draw; the echo finds one of the two instances of each class on an image."""
    loop = dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive'), seeds=[0, 1])
    metric = dict(type='VisualInteractiveMetric', min_images=1, num_samples=3)
    runner = make('TruthTeller', 'test', loop, metric=metric)
    metrics = runner.test()
    assert metrics['visual_i/plain_AP'] == metrics['visual_i/without_exemplar_AP'] == pytest.approx(1)
    assert metrics['visual_i/echo_AP'] == pytest.approx(51 / 101)
    runner = make('TruthTeller', 'test', loop | dict(prompts=dict(type='VisualGeneric')), metric=metric)
    with pytest.raises(InputError, match='the protocol is visual-generic'):
        runner.test()


def test_absence_metric_with_single_class_prompts(make):
    """The ground truth has no detections if the class is absent; a detector that ignores the prompt does."""
    loop = dict(type='PromptedTestLoop', prompts=dict(type='SingleClass'), seeds=[0, 1, 2])
    runner = make('TruthTeller', 'test', loop, metric=dict(type='AbsenceMetric', num_samples=5))
    metrics = runner.test()
    asked = runner.test_loop.prompts.asked
    assert dict(runner.model.asked[-8:]) == {image: [CLASSES[label]] for image, label in asked.items()}
    # The last class has no prompt.
    assert set(asked.values()) <= {0, 1, 2}
    found = {name.removeprefix('absence/'): value for name, value in metrics.items()}
    assert (found['AUROC'], found['false_positives_per_image'], found['F1']) == (1, 0, 1)
    assert found['images_with'] + found['images_without'] == 8
    assert 0 < found['images_with'] < 8
    runner = make('Recorder', 'test', loop, metric=dict(type='AbsenceMetric', num_samples=0))
    assert runner.test()['absence/F1'] < 1
    wrong = dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive'))
    runner = make('TruthTeller', 'test', wrong, metric=dict(type='AbsenceMetric'))
    with pytest.raises(InputError, match='the protocol is visual-interactive; set test_cfg.prompts'):
        runner.test()


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_recognition_test_loop_scores_ground_truth_boxes(make, protocol):
    """Accuracy does not depend on the batch size, and as detections the boxes are perfect."""
    loop = dict(type='RecognitionTestLoop', prompts=dict(type=protocol))
    metrics = [
        make('DINOR1', 'test', loop, batch_size, metric=dict(type='RecognitionMetric')).test() for batch_size in (1, 3)
    ]
    assert metrics[0] == metrics[1]
    # Two images each show 0, 1, 2 and 3 classes, with two boxes per class. Under visual-interactive, one box per class
    # remains, and images with a single class do not count.
    interactive = protocol == 'VisualInteractive'
    offered = {'TextPrompts': 4, 'VisualGeneric': 3}.get(protocol)
    assert metrics[0]['recognition/boxes'] == (10 if interactive else 24)
    chance = 4 / 10 / 2 + 6 / 10 / 3 if interactive else 1 / offered
    assert metrics[0]['recognition/chance'] == pytest.approx(chance)
    assert 0 <= metrics[0]['recognition/accuracy'] <= 1
    # As detections, every box is reported for every class.
    perfect = make('DINOR1', 'test', loop, metric=dict(type='ErrorMetric', score_thr=0)).test()
    assert perfect['errors/AR_100'] == pytest.approx(1)
    assert perfect['errors/object_found'] == 1


def test_detector_ignoring_prompts_scores_same_under_all_protocols(run):
    scores = [run('Deaf', protocol)[1] for protocol in PROTOCOLS]
    scores.append(run('Deaf', 'VisualGeneric', seed=7, num_exemplars=1)[1])
    assert all(score == scores[0] for score in scores)
    assert 0 < scores[0]['coco/bbox_mAP'] < 1


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_scores_do_not_depend_on_batch_size_under_any_protocol(run, protocol):
    """Batches of one and of two images, with different numbers of prompts, give the same scores."""
    one, two = (dict(run('Recorder', protocol, batch_size=size)[0].model.asked) for size in (1, 2))
    for image in range(8):
        # Under visual-interactive, no class is offered for images 0 and 4, and nothing is detected.
        assert len(one[image]) == (0 if protocol == 'VisualInteractive' and image % 4 == 0 else 10)
        # Sums in float32 have another order in batches of another size.
        torch.testing.assert_close(one[image], two[image], atol=1e-4, rtol=0)


def test_prompted_test_loop_writes_drawn_exemplars(run, tmp_path):
    # Visual-generic: the description and the file agree.
    runner, _ = run('TruthTeller', 'VisualGeneric', num_exemplars=2, seed=3)
    description = dict(protocol='visual-generic', num_exemplars=2, seed=3, without_exemplar=['quince'])
    assert runner.test_loop.prompts.description == description
    assert runner.test_loop.results[0]['prompts'] == description
    generic = json.loads((tmp_path / 'prompts_visual-generic_n2_seed3.json').read_text())
    assert generic['without_exemplar'] == ['quince']
    assert len(generic['exemplars']) == 6

    # Visual-interactive: the file has an exemplar per class and image.
    run('TruthTeller', 'VisualInteractive', seed=3)
    interactive = json.loads((tmp_path / 'prompts_visual-interactive_seed3.json').read_text())
    assert 'easier than visual-generic' in interactive['note']
    # Images 0 to 7 show 0, 1, 2, 3, 0, 1, 2, 3 classes.
    assert len(interactive['exemplars']) == 12


def test_interactive_boxes_are_in_pixels_of_network_input(run, data):
    """The pipeline doubles the image, so a prompt box is twice as large as its annotation."""
    # Record the prompt boxes of each image.
    seen = {}

    @MODELS.register_module(force=True)
    class Listener(Deaf):
        def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
            for sample, boxes in zip(batch_data_samples, prompts, strict=True):
                seen[sample.img_id] = boxes
            return super().predict_and_output(batch_inputs, batch_data_samples, prompts, rescale)

    run('Listener', 'VisualInteractive')
    # Compare them with the annotations.
    truth = json.loads((data / 'test.json').read_text())['annotations']
    assert sorted(seen) == list(range(8))
    for image, prompts in seen.items():
        assert len(prompts.boxes) == image % 4
        assert prompts.names == tuple(CLASSES)
        for box, label in zip(prompts.boxes.tolist(), prompts.labels.tolist(), strict=True):
            x1, y1, x2, y2 = (value / 2 for value in box)
            assert any(
                a['image_id'] == image and a['category_id'] == label and a['bbox'] == [x1, y1, x2 - x1, y2 - y1]
                for a in truth
            )


class CollectSamples(Hook):
    """Records the samples that the evaluator receives."""

    def __init__(self):
        self.samples = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.samples += outputs


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_data_samples_contain_no_prompts(run, protocol):
    """Prompts are an argument and not stored in the samples, which are pickled between processes."""
    collected = CollectSamples()
    run('Recorder', protocol, hooks=[collected])
    assert len(collected.samples) == 8
    for sample in collected.samples:
        assert 'pred_instances' in sample
        assert not [key for key in sample.all_keys() if 'prompt' in key]


# Seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('protocol', PROTOCOLS[1:])
def test_with_seed_draws_other_exemplars(run, protocol):
    settings = dict(num_exemplars=1) if protocol == 'VisualGeneric' else {}
    runner, _ = run('TruthTeller', protocol, **settings)
    loop = runner.test_loop
    draws = [loop.prompts.exemplars]
    for seed in (1, 2):
        loop.evaluate(loop.protocol.with_seed(seed))
        assert loop.prompts.description['seed'] == seed
        draws.append(loop.prompts.exemplars)
    assert draws[0] != draws[1] != draws[2]
    loop.evaluate(loop.protocol.with_seed(0))
    assert loop.prompts.exemplars == draws[0]


def test_several_seeds_give_means_and_results_per_seed(run, tmp_path):
    # Test with three seeds.
    runner, metrics = run('Drifting', 'VisualGeneric', seeds=[0, 1, 2], num_exemplars=1)
    assert isinstance(runner.test_loop, PromptedTestLoop)
    results = runner.test_loop.results
    assert [result['prompts']['seed'] for result in results] == [0, 1, 2]
    found = [result['metrics']['coco/bbox_mAP'] for result in results]
    assert found[0] > found[1] > found[2] > 0
    assert metrics.keys() == results[0]['metrics'].keys()
    assert metrics['coco/bbox_mAP'] == pytest.approx(sum(found) / 3, abs=1e-12)
    assert len(list(tmp_path.glob('prompts_visual-generic_n1_seed*.json'))) == 3
    # The result of a seed equals that of a test with this seed alone.
    alone, _ = run('Drifting', 'VisualGeneric', seed=1, num_exemplars=1)
    assert alone.test_loop.prompts.exemplars == runner.test_loop.protocol.with_seed(1).exemplars
    assert alone.test_loop.results[0]['prompts'] == results[1]['prompts']


def test_several_seeds_of_text_prompts_are_rejected(run):
    with pytest.raises(InputError, match='TextPrompts: draws no visual prompts') as error:
        run('TruthTeller', 'TextPrompts', seeds=[0, 1])
    assert '\n' not in str(error.value)


# Weights -----------------------------------------------------------------------------------------------------------


def bank_of(runner, cfg, num_exemplars=2, seed=0):
    """Compute the embeddings of a bank from the current weights of the runner's model."""
    dataset = build_protocol(dict(type='VisualGeneric'), cfg).dataset
    exemplars = draw_exemplars(dataset, num_exemplars, seed)
    return build_bank(runner.model, dataset, exemplars).prompt_set(CLASSES).embeddings


def prompted(split, **settings):
    kind = dict(val='PromptedValLoop', test='PromptedTestLoop')[split]
    return dict(type=kind, prompts=dict(type='VisualGeneric', num_exemplars=2, **settings))


@pytest.mark.parametrize('split', ['val', 'test'])
def test_prompts_are_computed_from_current_weights(make, split):
    runner = make('Recorder', split, prompted(split))
    found = []
    for _ in range(2):
        getattr(runner, split)()
        prompts = getattr(runner, f'{split}_loop').prompts
        assert torch.equal(prompts.shared.embeddings, bank_of(runner, runner.cfg))
        found.append(prompts.shared.embeddings)
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.mul_(1.1)
    assert not torch.equal(*found)


class SwapWeights(Hook):
    """Uses other weights during an evaluation, like MMEngine's EMAHook."""

    priority = 'LOWEST'

    def before_val_epoch(self, runner):
        self.kept = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.mul_(1.1)
        self.expected = bank_of(runner, runner.cfg)

    def after_val_epoch(self, runner, metrics=None):
        runner.model.load_state_dict(self.kept)

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch


@pytest.mark.parametrize('split', ['val', 'test'])
def test_prompts_are_computed_from_weights_swapped_by_hook(make, split):
    swap = SwapWeights()
    runner = make('Recorder', split, prompted(split), hooks=[swap])
    getattr(runner, split)()
    used = getattr(runner, f'{split}_loop').prompts.shared.embeddings
    assert torch.equal(used, swap.expected)
    # The hook has restored the weights of the training, which give other embeddings.
    assert not torch.equal(used, bank_of(runner, runner.cfg))


def test_validation_and_test_loop_give_equal_metrics(make):
    found = []
    for split in ('val', 'test'):
        runner = make('Recorder', split, prompted(split))
        found.append((getattr(runner, split)(), dict(runner.model.asked)))
    (metrics, scores), (other_metrics, other_scores) = found
    assert metrics == other_metrics
    assert all(torch.equal(scores[image], other_scores[image]) for image in range(8))


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('split', 'kind'), [('val', 'ValLoop'), ('test', 'TestLoop')])
def test_detector_rejects_loop_without_prompts(make, split, kind):
    runner = make('DINOR1', split, dict(type=kind))
    with pytest.raises(InputError, match=f'DINOR1: no prompts; .* Prompted{kind}') as error:
        getattr(runner, split)()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('split', 'kind'), [('val', 'ValLoop'), ('test', 'TestLoop')])
def test_prompted_loop_rejects_model_without_prompts(make, split, kind):
    runner = make(WithoutPrompts(), split, dict(type=f'Prompted{kind}', prompts=dict(type='TextPrompts')))
    with pytest.raises(InputError, match=f'WithoutPrompts takes no prompts; .*type="{kind}"') as error:
        getattr(runner, split)()
    assert '\n' not in str(error.value)


def test_build_protocol_rejects_wrong_settings(make):
    with pytest.raises(KeyError, match='Visual is not in the'):
        build_protocol(dict(type='Visual'), Config())
    with pytest.raises(TypeError, match='num_exemplars'):
        build_protocol(dict(type='VisualInteractive', num_exemplars=16), Config())
    for cfg in (Config(), Config(dict(prompt_dataset=None))):
        with pytest.raises(InputError, match='VisualGeneric needs prompt_dataset'):
            build_protocol(dict(type='VisualGeneric'), cfg)
    # In a run, the error is raised when the loop is built, before a training begins.
    with pytest.raises(InputError, match='VisualGeneric needs prompt_dataset'):
        make('DINOR1', 'val', prompted('val'), cfg={}).val()


@pytest.mark.parametrize('prompts', [None, {}, 'VisualGeneric', dict(num_exemplars=3)])
def test_build_protocol_rejects_prompts_without_type(prompts):
    with pytest.raises(InputError, match='prompts must be a dict with a type'):
        build_protocol(prompts, Config())


def test_text_prompts_without_language_model_are_rejected(make):
    """The error is raised when the loop is built, before the first iteration of a training."""
    model = ConfigDict(tiny_config().model)
    for split, kind in (('val', 'PromptedValLoop'), ('test', 'PromptedTestLoop')):
        runner = make(model, split, dict(type=kind, prompts=dict(type='TextPrompts')))
        with pytest.raises(InputError, match=r'has no language model; set model\.prompts\.language_model'):
            getattr(runner, f'{split}_loop')


def test_prompted_test_loop_rejects_empty_seeds(make):
    runner = make('DINOR1', 'test', dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive'), seeds=[]))
    with pytest.raises(InputError, match='seeds is empty'):
        runner.test()
