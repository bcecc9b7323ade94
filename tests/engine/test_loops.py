"""Prompted loops and their protocols, in the Runner, with detectors whose right answer is known."""

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
    """Answers with the ground truth of every class that it is asked for, and keeps what it was asked."""

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
    """Ignores its prompts: always the same class, and the box of its first instance or of another class."""

    def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
        for sample in batch_data_samples:
            box = sample.gt_instances.bboxes[:1] if sample.img_id % 2 else torch.tensor([[22.0, 2, 37, 22]])
            label = torch.full((len(box),), 1)
            sample.pred_instances = InstanceData(bboxes=box, labels=label, scores=label * 0.5)
        return batch_data_samples, []


@MODELS.register_module()
class Drifting(DINOR1):
    """Answers with the ground truth, one pixel further off with every new draw of prompts."""

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
    """Keeps the scores of every image."""

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
        # A test run loads its weights and initialises none.
        torch.manual_seed(0)
        runner.model.init_weights()
        return runner

    make.count = 0
    return make


@pytest.fixture
def run(make):
    """``run('TruthTeller', 'TextPrompts')`` gives the runner after its test, and the metrics."""

    def run(model, protocol, batch_size=3, seeds=None, hooks=(), **settings):
        loop = dict(type='PromptedTestLoop', prompts=dict(type=protocol, **settings))
        if seeds is not None:
            loop['seeds'] = seeds
        runner = make(model, 'test', loop, batch_size, hooks)
        return runner, runner.test()

    return run


PROTOCOLS = ['TextPrompts', 'VisualGeneric', 'VisualInteractive']


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_the_truth_scores_one(run, protocol):
    runner, metrics = run('TruthTeller', protocol)
    assert metrics['coco/bbox_mAP'] == 1.0
    asked = dict(runner.model.asked)
    assert sorted(asked) == list(range(8))
    if protocol == 'VisualInteractive':
        # Nothing that the image does not show, and nothing where it shows nothing.
        assert all(names == CLASSES[: image % 4] for image, names in asked.items())
    else:
        offered = CLASSES if protocol == 'TextPrompts' else CLASSES[:3]
        assert all(names == offered for names in asked.values())


def test_a_metric_is_told_the_exemplars(make):
    """Every class has two instances in an image: the echo finds one of them, and each draw is told anew."""
    loop = dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive'), seeds=[0, 1])
    metric = dict(type='VisualInteractiveMetric', min_images=1, num_samples=3)
    runner = make('TruthTeller', 'test', loop, metric=metric)
    metrics = runner.test()
    assert metrics['visual_i/plain_AP'] == metrics['visual_i/without_exemplar_AP'] == pytest.approx(1)
    assert metrics['visual_i/echo_AP'] == pytest.approx(51 / 101)
    runner = make('TruthTeller', 'test', loop | dict(prompts=dict(type='VisualGeneric')), metric=metric)
    with pytest.raises(InputError, match='the protocol is visual-generic'):
        runner.test()


def test_one_class_is_asked_of_each_image(make):
    """The truth is silent where the class is absent; who ignores the prompt is not."""
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
def test_recognition_of_given_boxes(make, protocol):
    """Batch by batch, by a real model; its scores are those of its own encoder, box by box."""
    loop = dict(type='RecognitionTestLoop', prompts=dict(type=protocol))
    metrics = [
        make('DINOR1', 'test', loop, batch_size, metric=dict(type='RecognitionMetric')).test() for batch_size in (1, 3)
    ]
    assert metrics[0] == metrics[1]
    # Images show 0 to 3 classes with two boxes each, twice. Without the exemplar one is left of each, and one class
    # leaves no choice.
    interactive = protocol == 'VisualInteractive'
    offered = {'TextPrompts': 4, 'VisualGeneric': 3}.get(protocol)
    assert metrics[0]['recognition/boxes'] == (10 if interactive else 24)
    chance = 4 / 10 / 2 + 6 / 10 / 3 if interactive else 1 / offered
    assert metrics[0]['recognition/chance'] == pytest.approx(chance)
    assert 0 <= metrics[0]['recognition/accuracy'] <= 1
    # As detections: perfect boxes, every one under every class.
    perfect = make('DINOR1', 'test', loop, metric=dict(type='ErrorMetric', score_thr=0)).test()
    assert perfect['errors/AR_100'] == pytest.approx(1)
    assert perfect['errors/object_found'] == 1


def test_who_ignores_prompts_scores_the_same_under_any(run):
    scores = [run('Deaf', protocol)[1] for protocol in PROTOCOLS]
    scores.append(run('Deaf', 'VisualGeneric', seed=7, num_exemplars=1)[1])
    assert all(score == scores[0] for score in scores)
    assert 0 < scores[0]['coco/bbox_mAP'] < 1


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_a_real_detector_takes_every_protocol_whatever_the_batch(run, protocol):
    """Image by image and in batches of two, which have other numbers of prompts: the same scores."""
    one, two = (dict(run('Recorder', protocol, batch_size=size)[0].model.asked) for size in (1, 2))
    for image in range(8):
        # Nothing is asked of images 0 and 4 under visual-interactive, and nothing found.
        assert len(one[image]) == (0 if protocol == 'VisualInteractive' and image % 4 == 0 else 10)
        # float32; a batch of another size is summed in other blocks
        torch.testing.assert_close(one[image], two[image], atol=1e-4, rtol=0)


def test_the_draw_is_written_and_says_what_it_is(run, tmp_path):
    runner, _ = run('TruthTeller', 'VisualGeneric', num_exemplars=2, seed=3)
    description = dict(protocol='visual-generic', num_exemplars=2, seed=3, without_exemplar=['quince'])
    assert runner.test_loop.prompts.description == description
    assert runner.test_loop.results[0]['prompts'] == description
    generic = json.loads((tmp_path / 'prompts_visual-generic_n2_seed3.json').read_text())
    assert generic['without_exemplar'] == ['quince']
    assert len(generic['exemplars']) == 6

    run('TruthTeller', 'VisualInteractive', seed=3)
    interactive = json.loads((tmp_path / 'prompts_visual-interactive_seed3.json').read_text())
    assert 'easier than visual-generic' in interactive['note']
    # Images 0 to 7 show 0, 1, 2, 3, 0, 1, 2, 3 classes.
    assert len(interactive['exemplars']) == 12


def test_interactive_boxes_are_in_pixels_of_the_network_input(run, data):
    """The pipeline doubles the image, so a prompt box is twice its annotation."""
    seen = {}

    @MODELS.register_module(force=True)
    class Listener(Deaf):
        def predict_and_output(self, batch_inputs, batch_data_samples, prompts, rescale=True):
            for sample, boxes in zip(batch_data_samples, prompts, strict=True):
                seen[sample.img_id] = boxes
            return super().predict_and_output(batch_inputs, batch_data_samples, prompts, rescale)

    run('Listener', 'VisualInteractive')
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
    """Keeps what the evaluator was given."""

    def __init__(self):
        self.samples = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.samples += outputs


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_samples_carry_no_prompts(run, protocol):
    """Prompts are an argument: nothing pins them to the samples, which are pickled between processes."""
    collected = CollectSamples()
    run('Recorder', protocol, hooks=[collected])
    assert len(collected.samples) == 8
    for sample in collected.samples:
        assert 'pred_instances' in sample
        assert not [key for key in sample.all_keys() if 'prompt' in key]


# Seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('protocol', PROTOCOLS[1:])
def test_another_seed_is_another_draw(run, protocol):
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


def test_several_seeds_give_means_and_the_results_of_each(run, tmp_path):
    runner, metrics = run('Drifting', 'VisualGeneric', seeds=[0, 1, 2], num_exemplars=1)
    assert isinstance(runner.test_loop, PromptedTestLoop)
    results = runner.test_loop.results
    assert [result['prompts']['seed'] for result in results] == [0, 1, 2]
    found = [result['metrics']['coco/bbox_mAP'] for result in results]
    assert found[0] > found[1] > found[2] > 0
    assert metrics.keys() == results[0]['metrics'].keys()
    assert metrics['coco/bbox_mAP'] == pytest.approx(sum(found) / 3, abs=1e-12)
    assert len(list(tmp_path.glob('prompts_visual-generic_n1_seed*.json'))) == 3
    # Each seed's result is that of a test of its own.
    alone, _ = run('Drifting', 'VisualGeneric', seed=1, num_exemplars=1)
    assert alone.test_loop.prompts.exemplars == runner.test_loop.protocol.with_seed(1).exemplars
    assert alone.test_loop.results[0]['prompts'] == results[1]['prompts']


def test_several_seeds_of_nothing_drawn_are_refused(run):
    with pytest.raises(InputError, match='TextPrompts: draws no visual prompts') as error:
        run('TruthTeller', 'TextPrompts', seeds=[0, 1])
    assert '\n' not in str(error.value)


# Weights -----------------------------------------------------------------------------------------------------------


def bank_of(runner, cfg, num_exemplars=2, seed=0):
    """Embeddings that the present weights of the runner's model give."""
    dataset = build_protocol(dict(type='VisualGeneric'), cfg).dataset
    exemplars = draw_exemplars(dataset, num_exemplars, seed)
    return build_bank(runner.model, dataset, exemplars).prompt_set(CLASSES).embeddings


def prompted(split, **settings):
    kind = dict(val='PromptedValLoop', test='PromptedTestLoop')[split]
    return dict(type=kind, prompts=dict(type='VisualGeneric', num_exemplars=2, **settings))


@pytest.mark.parametrize('split', ['val', 'test'])
def test_prompts_are_those_of_the_present_weights(make, split):
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
    """Other weights during an evaluation, as MMEngine's EMAHook has them."""

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
def test_prompts_come_from_weights_that_a_hook_exchanges(make, split):
    swap = SwapWeights()
    runner = make('Recorder', split, prompted(split), hooks=[swap])
    getattr(runner, split)()
    used = getattr(runner, f'{split}_loop').prompts.shared.embeddings
    assert torch.equal(used, swap.expected)
    # The hook has put back the weights of the training, which would have given others.
    assert not torch.equal(used, bank_of(runner, runner.cfg))


def test_validation_finds_what_a_test_finds(make):
    found = []
    for split in ('val', 'test'):
        runner = make('Recorder', split, prompted(split))
        found.append((getattr(runner, split)(), dict(runner.model.asked)))
    (metrics, scores), (other_metrics, other_scores) = found
    assert metrics == other_metrics
    assert all(torch.equal(scores[image], other_scores[image]) for image in range(8))


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('split', 'kind'), [('val', 'ValLoop'), ('test', 'TestLoop')])
def test_a_loop_without_prompts_is_refused_by_the_detector(make, split, kind):
    runner = make('DINOR1', split, dict(type=kind))
    with pytest.raises(InputError, match=f'DINOR1: no prompts; .* Prompted{kind}') as error:
        getattr(runner, split)()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('split', 'kind'), [('val', 'ValLoop'), ('test', 'TestLoop')])
def test_a_model_without_prompts_is_refused_by_the_loop(make, split, kind):
    runner = make(WithoutPrompts(), split, dict(type=f'Prompted{kind}', prompts=dict(type='TextPrompts')))
    with pytest.raises(InputError, match=f'WithoutPrompts takes no prompts; .*type="{kind}"') as error:
        getattr(runner, split)()
    assert '\n' not in str(error.value)


def test_wrong_settings_are_refused(make):
    with pytest.raises(KeyError, match='Visual is not in the'):
        build_protocol(dict(type='Visual'), Config())
    with pytest.raises(TypeError, match='num_exemplars'):
        build_protocol(dict(type='VisualInteractive', num_exemplars=16), Config())
    for cfg in (Config(), Config(dict(prompt_dataset=None))):
        with pytest.raises(InputError, match='VisualGeneric needs prompt_dataset'):
            build_protocol(dict(type='VisualGeneric'), cfg)
    # The same in a run, when the loop is built: a training would not begin.
    with pytest.raises(InputError, match='VisualGeneric needs prompt_dataset'):
        make('DINOR1', 'val', prompted('val'), cfg={}).val()


@pytest.mark.parametrize('prompts', [None, {}, 'VisualGeneric', dict(num_exemplars=3)])
def test_prompts_without_a_type_are_refused(prompts):
    with pytest.raises(InputError, match='prompts must be a dict with a type'):
        build_protocol(prompts, Config())


def test_text_prompts_need_a_language_model(make):
    """Refused when the loop is built, which a training does before its first iteration."""
    model = ConfigDict(tiny_config().model)
    for split, kind in (('val', 'PromptedValLoop'), ('test', 'PromptedTestLoop')):
        runner = make(model, split, dict(type=kind, prompts=dict(type='TextPrompts')))
        with pytest.raises(InputError, match=r'has no language model; set model\.prompts\.language_model'):
            getattr(runner, f'{split}_loop')


def test_no_seeds_are_refused(make):
    runner = make('DINOR1', 'test', dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive'), seeds=[]))
    with pytest.raises(InputError, match='seeds is empty'):
        runner.test()
