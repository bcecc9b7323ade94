"""DINOR1Inferencer: returned values, circumstances that must not change results, and loading."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torchvision.ops import box_iou

from dinor1.inference import detect_files, output_paths
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.visual_prompt import VisualPrompt
from dinor1.models.detectors.duplicates import DuplicateRemoval
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.errors import InputError
from tests.inference.comparisons import BOXES, NAMES, assert_same, detections, same_sets
from tests.model_files import random_image


def test_predict_of_no_image_is_empty(prompted):
    assert prompted.predict([]) == []


def test_predict_without_detections_gives_an_empty_entry(prompted, image_folder):
    (sample,) = prompted.predict(image_folder / '0.png', score_thr=1)
    assert sample.pred_instances.bboxes.shape == (0, 4)
    result = prompted.to_dict(sample)
    assert result['bboxes'] == result['scores'] == result['labels'] == result['names'] == []


def test_predict_removes_duplicates_per_class_or_of_all_classes(prompted, image_folder):
    def predict(**options):
        (sample,) = prompted.predict(image_folder / '0.png', score_thr=0, **options)
        return sample.pred_instances

    everything = predict()
    assert len(predict(nms_thr=1)) == len(everything) == 36
    for agnostic in (False, True):
        kept = predict(nms_thr=0.1, class_agnostic_nms=agnostic)
        same_class = kept.labels[:, None] == kept.labels[None]
        pairs = box_iou(kept.bboxes, kept.bboxes).fill_diagonal_(0)
        assert pairs[same_class | agnostic].max() <= 0.1
        assert len(kept) < len(everything)
    with pytest.raises(InputError, match=r'IoU threshold must be a number in \[0, 1\]'):
        predict(nms_thr=2)
    with pytest.raises(InputError, match='class_agnostic_nms needs nms_thr'):
        predict(class_agnostic_nms=True)


def test_nms_threshold_of_predict_replaces_that_of_the_config(prompted, image_folder, monkeypatch):
    def count(**options):
        (sample,) = prompted.predict(image_folder / '0.png', score_thr=0, **options)
        return len(sample.pred_instances)

    whole, reduced = count(), count(nms_thr=0.1)
    assert reduced < whole
    monkeypatch.setattr(prompted.model, 'duplicate_removal', DuplicateRemoval(iou_threshold=0.1))
    assert count() == reduced
    assert count(nms_thr=1) == whole
    # The rule of the config is in force again, also after an error.
    with pytest.raises(InputError, match='no such image'):
        prompted.predict('missing.png', nms_thr=1)
    assert count() == reduced


def test_predict_uses_a_threshold_per_class(prompted, image_folder):
    (everything,) = prompted.predict(image_folder / '0.png', score_thr=0, as_dict=True)
    thresholds = {name: float(np.median([v[0] for _, v in detections(everything, name)])) for name in NAMES}
    thresholds['dog'] = 1.0
    (found,) = prompted.predict(image_folder / '0.png', score_thr=thresholds, as_dict=True)
    assert {name: len(detections(found, name)) for name in NAMES} == {'cat': 6, 'dog': 0, 'cup': 6}
    with pytest.raises(InputError, match="no threshold for class 'dog'"):
        prompted.predict(image_folder / '0.png', score_thr=dict(cat=0.5, cup=0.5))
    with pytest.raises(InputError, match=r'score_thr must be a number in \[0, 1\], got 2'):
        prompted.predict(image_folder / '0.png', score_thr=dict(cat=0.5, dog=0.5, cup=2))


def test_calibrate_separates_confirmed_from_removed_detections(prompted, image_folder):
    samples = prompted.predict(image_folder, score_thr=0)
    limit = 0.02
    checked = [(sample, (sample.pred_instances.scores > limit).tolist()) for sample in samples]
    assert 0 < sum(map(sum, (flags for _, flags in checked))) < 4 * 36
    points = prompted.calibrate(checked)
    assert set(points) == set(NAMES)
    assert all(point.num_checked == 4 * 12 for point in points.values())
    kept = prompted.predict(image_folder, score_thr={name: point.threshold for name, point in points.items()})
    for sample, (_, flags) in zip(kept, checked, strict=True):
        assert len(sample.pred_instances) == sum(flags)
    with pytest.raises(InputError, match='image 0 has 36 detections, but 1 flags'):
        prompted.calibrate([(samples[0], [True])])
    for wrong, message in ((7, 'expected a list'), ([7], 'must be a pair'), ([(samples[0], 7)], 'flags of image 0')):
        with pytest.raises(InputError, match=message):
            prompted.calibrate(wrong)


def test_exemplar_similarity_names_a_box_with_the_wrong_name(inferencer):
    # Copies of two objects; the last box is a cat with the name of the dog.
    image, boxes = random_image(60, 80), [BOXES[0], BOXES[1]]
    names = [['cat', 'dog'], ['cat', 'dog'], ['dog', 'dog']]
    found = inferencer.exemplar_similarity([image] * 3, [boxes] * 3, names)
    assert found.is_outlier.tolist() == [False, False, False, False, True, False]


@pytest.mark.parametrize(
    ('boxes', 'names', 'message'),
    [
        ([], ['cat'], 'boxes and names for each of 1 images, at least one, got 0 and 1'),
        ([[5, 5, 30, 40]], 'cat', "names: expected a list, got 'cat'"),
        (7, ['cat'], 'boxes: expected a list, got 7'),
    ],
)
def test_exemplar_similarity_rejects_bad_lists(inferencer, boxes, names, message):
    with pytest.raises(InputError, match=message):
        inferencer.exemplar_similarity([random_image(60, 80)], boxes, names)


def test_predict_reports_the_best_score_of_every_class(prompted, image_folder):
    (everything,) = prompted.predict(image_folder / '0.png', score_thr=0, as_dict=True)
    (sample,) = prompted.predict(image_folder / '0.png', score_thr=1)
    expected = {name: max(v[0] for _, v in detections(everything, name)) for name in NAMES}
    assert sample.best_scores == pytest.approx(expected)


def test_predict_rejects_missing_prompts(inferencer, image_folder):
    with pytest.raises(InputError, match='no prompts are set'):
        inferencer.predict(image_folder / '0.png')
    with pytest.raises(InputError, match='no prompts'):
        inferencer.set_prompts()
    with pytest.raises(InputError, match='no visual prompts to save'):
        inferencer.save_bank('bank.safetensors')


def test_to_dict_is_json_serialisable_and_complete(prompted, image_folder):
    # Choose a threshold that leaves out half of the candidates.
    (everything,) = prompted.predict(str(image_folder / '0.png'), score_thr=0, as_dict=True)
    threshold = np.median(everything['scores'])
    (sample,) = prompted.predict(str(image_folder / '0.png'), score_thr=threshold)
    found = sample.pred_instances
    result = prompted.to_dict(sample)
    # Check the fields.
    assert json.loads(json.dumps(result)) == result
    assert result['img_path'] == str(image_folder / '0.png')
    assert (result['width'], result['height']) == (80, 60)
    assert 0 < len(found) < len(everything['scores'])
    assert min(result['scores']) >= threshold
    assert result['scores'] == sorted(result['scores'], reverse=True)
    assert result['names'] == [prompted.prompts.names[label] for label in result['labels']]
    boxes = np.array(result['bboxes'])
    assert (boxes >= 0).all()
    assert (boxes <= [80, 60, 80, 60]).all()
    assert 'prompts' not in sample
    assert not found.scores.requires_grad


@pytest.mark.parametrize('batch_size', [1, 2, 3])
def test_predict_does_not_depend_on_batch_size_or_other_images(prompted, image_folder, batch_size):
    paths = sorted(image_folder.glob('*.png'))
    expected = prompted.predict(paths, batch_size=4, score_thr=0, as_dict=True)
    # Kernels may add in another order for another batch size: float32 rounding.
    assert_same(prompted.predict(paths, batch_size=batch_size, score_thr=0, as_dict=True), expected, 1e-5)
    turned = prompted.predict(paths[::-1], batch_size=batch_size, score_thr=0, as_dict=True)[::-1]
    assert_same(turned, expected, 1e-5)


def test_predict_is_bitwise_reproducible(prompted, image_folder):
    assert not prompted.model.training
    expected = prompted.predict(image_folder, score_thr=0, as_dict=True)
    prompted.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
    assert_same(prompted.predict(image_folder, score_thr=0, as_dict=True), expected)


def test_predict_with_permuted_prompts_gives_the_same_detections(inferencer, image_folder):
    reference = random_image(60, 80)
    inferencer.set_prompts(visual=[(reference, BOXES, NAMES)])
    expected = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    prompts = inferencer.set_prompts(visual=[(reference, BOXES[::-1], NAMES[::-1])])
    assert prompts.names == tuple(NAMES[::-1])
    for one, two in zip(inferencer.predict(image_folder, score_thr=0, as_dict=True), expected, strict=True):
        assert same_sets(detections(one), detections(two))


def test_call_equals_set_prompts_and_predict(inferencer, image_folder, tmp_path):
    image, options = random_image(60, 80), dict(score_thr=0, as_dict=True)
    visual = (image, BOXES, NAMES)
    kept = inferencer.set_prompts(visual=[visual])
    expected = inferencer.predict(image_folder / '0.png', **options)
    inferencer.save_bank(tmp_path / 'bank.safetensors')
    bank = PromptBank.load(tmp_path / 'bank.safetensors')
    forms = [
        [visual],
        visual,
        VisualPrompt(*visual),
        [VisualPrompt(*visual)],
        dict(visual=[visual]),
        bank,
        tmp_path / 'bank.safetensors',
        str(tmp_path / 'bank.safetensors'),
        kept,
    ]
    for prompts in forms:
        inferencer.reset_prompts()
        assert_same(inferencer(image_folder / '0.png', prompts=prompts, **options), expected, tolerance=1e-6)
    # The prompts stay set.
    assert_same(inferencer(image_folder / '0.png', **options), expected, tolerance=1e-6)


@pytest.mark.parametrize(
    ('prompts', 'message'),
    [
        (3, 'prompts: expected boxes on images'),
        (dict(visaul=[]), "unknown key 'visaul'"),
        ([], 'no prompts: give boxes'),
        (['cat', 'dog'], 'no language model'),
        (PromptSet.from_exemplars(torch.zeros(1, 7), torch.tensor([0]), ['a']), 'embeddings of width 7'),
    ],
)
def test_call_rejects_invalid_prompts(prompted, image_folder, prompts, message):
    before = prompted.prompts
    with pytest.raises(InputError, match=message):
        prompted(image_folder / '0.png', prompts=prompts)
    assert prompted.prompts is before


def test_package_exports_the_inferencer():
    import dinor1

    assert dinor1.DINOR1Inferencer is DINOR1Inferencer
    assert {'DINOR1Inferencer', 'PromptBank', 'PromptSet', 'register_all', '__version__'} <= set(dinor1.__all__)
    with pytest.raises(AttributeError, match="'dinor1' has no attribute 'inferencer_of_things'"):
        _ = dinor1.inferencer_of_things


def test_inferencer_does_not_change_a_loaded_config(model_files, image_folder):
    cfg = Config.fromfile(model_files.config)
    results = []
    for _ in range(2):
        inferencer = DINOR1Inferencer(cfg, model_files.checkpoint, device='cpu')
        inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
        results.append(inferencer.predict(image_folder, score_thr=0, as_dict=True))
    assert_same(*results)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda cfg: cfg.pop('model'), 'has no model'),
        (lambda cfg: cfg.pop('test_dataloader'), 'must begin with LoadImageFromFile'),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline.pop(0), 'must begin with LoadImageFromFile'),
    ],
)
def test_inferencer_rejects_incomplete_configs(model_files, spoil, message):
    cfg = Config.fromfile(model_files.config)
    spoil(cfg)
    with pytest.raises(InputError, match=message):
        DINOR1Inferencer(cfg, model_files.checkpoint, device='cpu')


def test_inferencer_rejects_unknown_devices(model_files):
    with pytest.raises(InputError, match="'gpu'"):
        DINOR1Inferencer(model_files.config, model_files.checkpoint, device='gpu')
    with pytest.raises(InputError, match='CUDA devices'):
        DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cuda:99')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_predict_on_gpu_equals_cpu(prompted, model_files, image_folder):
    expected = prompted.predict(image_folder, score_thr=0, as_dict=True)
    inferencer = DINOR1Inferencer(model_files.config, model_files.checkpoint)
    assert inferencer.device.type == 'cuda'
    inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
    results = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    for one, two in zip(results, expected, strict=True):
        # TF32 convolutions keep 10 bits of the mantissa.
        np.testing.assert_allclose(one['scores'], two['scores'], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(score_thr=30), 'score_thr must be a number in'),
        (dict(score_thr=float('nan')), 'score_thr must be a number in'),
        (dict(score_thr='0.3'), 'score_thr must be a number in'),
        (dict(score_thr=None), 'score_thr must be a number in'),
        (dict(score_thr=True), 'score_thr must be a number in'),
        (dict(batch_size=1.0), 'batch_size must be an integer'),
        (dict(batch_size=2.0), 'batch_size must be an integer'),
        (dict(batch_size='8'), 'batch_size must be an integer'),
    ],
)
def test_predict_rejects_options_out_of_range(prompted, image_folder, options, message):
    with pytest.raises(InputError, match=message):
        prompted.predict(image_folder / '0.png', **options)


def test_one_call_accepts_a_single_prompt_in_any_sequence(inferencer, image_folder):
    image, path = random_image(60, 80), image_folder / '0.png'
    expected = inferencer(path, prompts=[(image, [[5, 5, 30, 40]], 'a')], score_thr=0, as_dict=True)
    for prompts in ((image, ((5, 5, 30, 40),), 'a'), (image, (5, 5, 30, 40), 'a'), [image, [[5, 5, 30, 40]], 'a']):
        assert_same(inferencer(path, prompts=prompts, score_thr=0, as_dict=True), expected, tolerance=1e-6)


def test_one_call_takes_no_file_for_a_class_name(prompted, image_folder):
    for prompts in (str(image_folder / '0.png'), ['cat', str(image_folder / '0.png')]):
        with pytest.raises(InputError, match='0.png is a file, not a class name'):
            prompted(image_folder / '0.png', prompts=prompts)


def test_one_call_takes_texts_that_are_too_long_for_a_path(prompted, image_folder):
    with pytest.raises(InputError, match='no language model'):
        prompted(image_folder / '0.png', prompts=' . '.join(f'class {i}' for i in range(1000)))


@pytest.mark.parametrize(
    ('options', 'message'), [(dict(score_thr=None), 'score_thr must be'), (dict(batch_size=1.0), 'batch_size must be')]
)
def test_detect_files_rejects_options_out_of_range(prompted, image_folder, tmp_path, options, message):
    targets = [str(image_folder / '0.png')]
    with pytest.raises(InputError, match=message):
        detect_files(prompted, targets, output_paths(targets, tmp_path), **options)
    assert list(tmp_path.iterdir()) == []
