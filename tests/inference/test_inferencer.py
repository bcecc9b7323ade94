"""DINOR1Inferencer: accepted inputs, returned values, and circumstances that must not change results."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torchvision.ops import box_iou

from dinor1.inference import detect_files, output_paths
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.visual_prompt import VisualPrompt
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from tests.model_files import random_image, write_model

BOXES = [[5, 5, 30, 40], [40, 10, 70, 50], [10, 30, 60, 58]]
NAMES = ['cat', 'dog', 'cup']


@pytest.fixture(scope='module')
def loaded(model_files):
    return DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')


@pytest.fixture
def inferencer(loaded):
    loaded.reset_prompts()
    return loaded


@pytest.fixture
def prompted(inferencer):
    inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
    return inferencer


def assert_same(results, expected, tolerance=0.0):
    """Assert equal detections in equal order; a tolerance of 0 means bitwise equal."""
    assert len(results) == len(expected)
    for one, two in zip(results, expected, strict=True):
        assert one['names'] == two['names']
        np.testing.assert_allclose(one['scores'], two['scores'], rtol=0, atol=tolerance)
        np.testing.assert_allclose(one['bboxes'], two['bboxes'], rtol=0, atol=100 * tolerance)


def detections(result, name=None):
    """Detections of one class, or of all classes, as pairs of name and array (score, box)."""
    found = zip(result['names'], result['scores'], result['bboxes'], strict=True)
    return [(n, np.array([score, *box])) for n, score, box in found if name in (None, n)]


def same_sets(found, expected):
    """Whether every detection of each list is in the other list, in any order."""

    def has_like(one, others):
        # Tolerance: float32 rounding of scores below 1 and of boxes below 100 pixels.
        return any(n == one[0] and np.allclose(v, one[1], rtol=1e-4, atol=1e-5) for n, v in others)

    both = all(has_like(d, expected) for d in found) and all(has_like(d, found) for d in expected)
    return both and len(found) == len(expected)


# ------------------------------------------------------------------------ empty inputs


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
def test_exemplar_similarity_refuses_bad_lists(inferencer, boxes, names, message):
    with pytest.raises(InputError, match=message):
        inferencer.exemplar_similarity([random_image(60, 80)], boxes, names)


def test_predict_reports_the_best_score_of_every_class(prompted, image_folder):
    (everything,) = prompted.predict(image_folder / '0.png', score_thr=0, as_dict=True)
    (sample,) = prompted.predict(image_folder / '0.png', score_thr=1)
    expected = {name: max(v[0] for _, v in detections(everything, name)) for name in NAMES}
    assert sample.best_scores == pytest.approx(expected)


def test_predict_refuses_missing_prompts(inferencer, image_folder):
    with pytest.raises(InputError, match='no prompts are set'):
        inferencer.predict(image_folder / '0.png')
    with pytest.raises(InputError, match='no prompts'):
        inferencer.set_prompts()
    with pytest.raises(InputError, match='no visual prompts to save'):
        inferencer.save_bank('bank.safetensors')


# ------------------------------------------------------------------------ form of inputs and outputs


def test_predict_gives_equal_results_for_all_image_types(prompted, image_folder):
    paths = sorted(image_folder.glob('*.png'))
    arrays = [cv2.imread(str(path)) for path in paths]
    expected = prompted.predict([str(path) for path in paths], score_thr=0, as_dict=True)
    # 12 queries x 3 classes.
    assert [len(result['scores']) for result in expected] == [36] * 4
    assert_same(prompted.predict(image_folder, score_thr=0, as_dict=True), expected)
    assert_same(prompted.predict(paths, score_thr=0, as_dict=True), expected)
    assert_same(prompted.predict(arrays, score_thr=0, as_dict=True), expected)
    assert_same(prompted.predict([Image.open(p) for p in paths], score_thr=0, as_dict=True), expected)
    for i, array in enumerate(arrays):
        assert_same(prompted.predict(array, batch_size=4, score_thr=0, as_dict=True), expected[i : i + 1], 1e-5)


def test_predict_reads_grey_and_transparent_images_as_colour(prompted, tmp_path):
    colour = random_image(40, 50)
    grey, transparent = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), cv2.cvtColor(colour, cv2.COLOR_BGR2BGRA)
    transparent[..., 3] = 7
    for name, image in {'grey.png': grey, 'transparent.png': transparent}.items():
        cv2.imwrite(str(tmp_path / name), image)
        expected = prompted.predict(tmp_path / name, score_thr=0, as_dict=True)
        assert_same(prompted.predict(Image.open(tmp_path / name), score_thr=0, as_dict=True), expected)


def test_predict_applies_exif_rotation_to_files_and_pil_images(prompted, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    Image.fromarray(random_image(40, 64)).save(tmp_path / 'turned.jpg', exif=exif)
    for image in (tmp_path / 'turned.jpg', Image.open(tmp_path / 'turned.jpg')):
        (result,) = prompted.predict(image, as_dict=True)
        assert (result['width'], result['height']) == (40, 64)


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


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        ('nowhere.png', 'no such image'),
        (np.zeros((4, 4), np.uint8), r'BGR array \(H, W, 3\) of uint8, got shape \(4, 4\)'),
        (np.zeros((4, 4, 3), np.float32), 'of float32'),
        (np.zeros((0, 4, 3), np.uint8), r'got shape \(0, 4, 3\)'),
        (7, 'got int'),
    ],
)
def test_predict_refuses_invalid_images(prompted, image, message):
    with pytest.raises(InputError, match=message):
        prompted.predict([random_image(30, 30), image])


# ------------------------------------------------------------------------ independence of results


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


def test_predict_uses_pixels_of_the_original_image(inferencer):
    small = random_image(48, 36)
    # Resize the small image as the pipeline does, so that the network input is the same for both images.
    large = cv2.resize(small, (72, 96), interpolation=cv2.INTER_LINEAR)
    box = [4, 6, 30, 20]
    inferencer.set_prompts(visual=[(small, box, 'cat')])
    on_small = inferencer.predict([small, large], score_thr=0, as_dict=True)
    inferencer.set_prompts(visual=[(large, [2 * v for v in box], 'cat')])
    on_large = inferencer.predict([small, large], score_thr=0, as_dict=True)
    # The network inputs are equal; boxes are only divided by another factor, a power of two.
    assert_same(on_large, on_small)
    np.testing.assert_allclose(on_small[1]['bboxes'], 2 * np.array(on_small[0]['bboxes']), rtol=1e-6)


# ------------------------------------------------------------------------ visual prompts and banks


def embeddings_of(inferencer, **kwargs):
    prompts = inferencer.set_prompts(**kwargs)
    return dict(zip(prompts.names, prompts.embeddings, strict=True))


def test_set_prompts_averages_the_boxes_of_a_class_over_images(inferencer):
    one, two, three = random_image(60, 80, 1), random_image(60, 80, 2), random_image(50, 40, 3)
    box = [5, 5, 30, 40]
    single = [
        embeddings_of(inferencer, visual=[(image, b, 'cat')])['cat']
        for image, b in [(one, box), (one, [20, 8, 60, 50]), (two, box), (three, box)]
    ]
    visual = [
        VisualPrompt(one, [box, [20, 8, 60, 50], [1, 1, 20, 20]], ['cat', 'cat', 'dog']),
        (two, np.array([box]), 'cat'),
        (three, torch.tensor(box), ['cat']),
    ]
    prompts = embeddings_of(inferencer, visual=visual)
    assert list(prompts) == ['cat', 'dog']
    # One pass over several images instead of four passes over one image: float32 rounding.
    torch.testing.assert_close(prompts['cat'], torch.stack(single).mean(0), rtol=0, atol=1e-5)
    assert (single[0] - single[2]).abs().max() > 1e-3


def test_set_prompts_accepts_boxes_on_the_target_image(inferencer, image_folder):
    prompts = inferencer.set_prompts(visual=[(image_folder / '0.png', BOXES[0], 'thing')])
    assert prompts.names == ('thing',)
    (result,) = inferencer.predict(image_folder / '0.png', score_thr=0, as_dict=True)
    assert set(result['names']) == {'thing'}


def test_save_bank_gives_the_detections_of_its_boxes(prompted, image_folder, tmp_path):
    expected = prompted.predict(image_folder, score_thr=0, as_dict=True)
    prompted.save_bank(tmp_path / 'bank.safetensors')
    prompted.reset_prompts()
    prompted.set_prompts(bank=tmp_path / 'bank.safetensors')
    assert_same(prompted.predict(image_folder, score_thr=0, as_dict=True), expected)
    bank = PromptBank.load(tmp_path / 'bank.safetensors')
    assert bank.num_exemplars == (1, 1, 1)
    prompted.set_prompts(bank=bank)
    assert_same(prompted.predict(image_folder, score_thr=0, as_dict=True), expected)


def test_set_prompts_averages_bank_and_boxes_of_a_class(inferencer, tmp_path):
    visual = [(random_image(60, 80, i), BOXES[0], 'cat') for i in range(3)]
    expected = embeddings_of(inferencer, visual=visual)['cat']
    inferencer.set_prompts(visual=visual[:2])
    inferencer.save_bank(tmp_path / 'two.safetensors')
    both = embeddings_of(inferencer, bank=tmp_path / 'two.safetensors', visual=visual[2:])
    torch.testing.assert_close(both['cat'], expected, rtol=0, atol=1e-5)
    inferencer.save_bank(tmp_path / 'three.safetensors')
    assert PromptBank.load(tmp_path / 'three.safetensors').num_exemplars == (3,)


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
def test_call_refuses_invalid_prompts(prompted, image_folder, prompts, message):
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


def test_set_prompts_refuses_bank_of_other_weights(prompted, other_files, tmp_path):
    prompted.save_bank(tmp_path / 'bank.safetensors')
    other = DINOR1Inferencer(other_files.config, other_files.checkpoint, device='cpu')
    for bank in (tmp_path / 'bank.safetensors', PromptBank.load(tmp_path / 'bank.safetensors')):
        with pytest.raises(InputError, match='made by another model'):
            other.set_prompts(bank=bank)


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        ([], 'at least one box of four numbers'),
        ([1, 2, 3], 'at least one box of four numbers'),
        ([[1, 2, 3, 4], [5, 6]], 'not four numbers'),
        (['a', 1, 2, 3], 'not four numbers'),
        ([0, 0, float('nan'), 9], 'not four finite numbers'),
        ([30, 5, 5, 40], r'box \(30, 5, 5, 40\) has no area'),
        ([5, 5, 5, 40], 'has no area'),
        ([-5, 5, 30, 40], 'leaves the image of 80 x 60 pixels'),
        ([5, 5, 30, 62], 'leaves the image'),
        ([80, 5, 80.5, 40], 'thinner than 1 pixel'),
        ([79.5, 5, 80.9, 40], 'thinner than 1 pixel'),
        ([0.1, 0.2, 0.5, 0.7], 'boxes are pixels x1,y1,x2,y2, and all numbers .* normalized=True'),
        ([[5, 5, 30, 40], [0, 0, 1, 1]], r'boxes are pixels x1,y1,x2,y2, and all numbers of box \(0, 0, 1, 1\)'),
        ([10, 10, 10.3, 40], 'thinner than 1 pixel'),
        ([10, 10, 40, 10.3], 'thinner than 1 pixel'),
        ([False, False, True, True], 'not four numbers'),
        ([5, 5, 30, True], 'not four numbers'),
        (np.array([5, 5, 30, True], dtype=object), 'not four numbers'),
        (torch.tensor([0, 0, 1, 1]).bool(), 'not four numbers'),
        ([500, 500, 600, 600], 'leaves the image'),
    ],
)
def test_set_prompts_refuses_invalid_boxes_and_keeps_old_prompts(prompted, box, message):
    before = prompted.prompts
    with pytest.raises(InputError, match=message) as error:
        prompted.set_prompts(visual=[(random_image(60, 80), box, 'cat')])
    assert 'image 0' in str(error.value)
    assert '\n' not in str(error.value)
    assert prompted.prompts is before


def test_set_prompts_accepts_boxes_one_pixel_beyond_the_edge(inferencer):
    image = random_image(60, 80)
    exact = embeddings_of(inferencer, visual=[(image, [0, 0, 80, 60], 'cat')])['cat']
    beyond = embeddings_of(inferencer, visual=[(image, [-1, -0.5, 81, 60.5], 'cat')])['cat']
    assert torch.equal(exact, beyond)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['cat'], 'one class name per box'),
        (['cat', 'dog', 'cup', 'pen'], 'one class name per box'),
        (['cat', '', 'dog'], "'' is an empty class name"),
        ('', "'' is an empty class name"),
        ([1, 2, 3], "1 is not a class name; give a text, such as '1'"),
        (0, "0 is not a class name; give a text, such as '0'"),
        (None, 'None is not a class name'),
        (b'cat', 'is not a class name'),
        ('\udcff', 'not valid Unicode'),
    ],
)
def test_set_prompts_refuses_names_that_do_not_fit_the_boxes(inferencer, names, message):
    with pytest.raises(InputError, match=message):
        inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, names)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(visual=['ref.jpg']), r'expected a list of \(image, boxes, names\)'),
        (dict(visual=7), 'visual: expected a list'),
        (dict(visual=None), 'visual: expected a list'),
        (dict(visual=[(random_image(60, 80), BOXES, NAMES, 1)]), 'normalized must be True or False, got 1'),
        (dict(text=[1]), "text: 1 is not a class name; give a text, such as '1'"),
        (dict(text=1), 'text: expected a list'),
        (dict(text=['']), 'text: .* empty class name'),
        (dict(text=['a\udcff']), 'not valid Unicode'),
        (dict(bank=7), 'bank: expected a prompt bank or its file, got 7'),
        (dict(visual=[(random_image(60, 80), BOXES, NAMES)], negative=[0]), 'negative: 0 is not a class name'),
        (dict(visual=[(random_image(60, 80), BOXES, NAMES)], negative=0), 'negative: expected a list'),
    ],
)
def test_set_prompts_refuses_invalid_arguments(inferencer, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        inferencer.set_prompts(**arguments)
    assert '\n' not in str(error.value)


def test_set_prompts_scales_normalized_boxes(inferencer):
    image = random_image(32, 64)
    expected = embeddings_of(inferencer, visual=[(image, [[16, 8, 48, 24], [0, 0, 64, 32]], ['cat', 'dog'])])
    normalized = VisualPrompt(image, [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]], ['cat', 'dog'], normalized=True)
    for visual in ([normalized], [tuple(normalized)]):
        found = embeddings_of(inferencer, visual=visual)
        assert all(torch.equal(found[name], expected[name]) for name in ('cat', 'dog'))
    # Rounding of normalised numbers is accepted.
    rounded = embeddings_of(inferencer, visual=[(image, [-0.0001, 0, 1.0001, 1], 'dog', True)])
    torch.testing.assert_close(rounded['dog'], expected['dog'], rtol=0, atol=1e-5)
    inferencer(image, prompts=tuple(normalized))
    assert inferencer.prompts.names == ('cat', 'dog')


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        ([16, 8, 48, 24], 'is not within 0..1'),
        ([-0.2, 0.1, 0.5, 0.5], 'is not within 0..1'),
        ([0.5, 0.1, 0.4, 0.5], 'has no area'),
        ([0.5, 0.1, 0.505, 0.5], 'thinner than 1 pixel'),
    ],
)
def test_set_prompts_refuses_invalid_normalized_boxes(inferencer, box, message):
    with pytest.raises(InputError, match=message):
        inferencer.set_prompts(visual=[VisualPrompt(random_image(60, 80), box, 'cat', normalized=True)])


def test_set_prompts_takes_spellings_of_a_name_as_one_class(inferencer, tmp_path):
    image = random_image(60, 80)
    same = embeddings_of(inferencer, visual=[(image, BOXES, ['cat', 'cat', 'dog'])])
    inferencer.save_bank(tmp_path / 'bank.safetensors')
    other = embeddings_of(inferencer, visual=[(image, BOXES, ['cat', 'CAT ', 'dog'])])
    assert list(other) == ['cat', 'dog']
    assert torch.equal(other['cat'], same['cat'])
    # The spelling of the bank is kept, and the exemplars of all sources count.
    visual = [(image, BOXES[:1], 'Cat')]
    prompts = inferencer.set_prompts(visual=visual, bank=tmp_path / 'bank.safetensors', negative='DOG')
    assert prompts.names == ('cat', 'dog')
    assert prompts.negative.tolist() == [False, True]
    inferencer.save_bank(tmp_path / 'both.safetensors')
    assert PromptBank.load(tmp_path / 'both.safetensors').num_exemplars == (3, 1)


# ------------------------------------------------------------------------ negatives


def test_negative_prompts_are_offered_but_not_reported(inferencer, image_folder):
    visual = [(random_image(60, 80), BOXES, NAMES)]
    inferencer.set_prompts(visual=visual)
    everything = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    prompts = inferencer.set_prompts(visual=visual, negative=['dog'])
    assert bool(prompts.mask.all())
    assert prompts.names == tuple(NAMES)
    hidden = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    inferencer.set_prompts(visual=[(random_image(60, 80), BOXES[::2], NAMES[::2])])
    without = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    for full, found, absent in zip(everything, hidden, without, strict=True):
        assert 'dog' in full['names']
        # The negative is offered: the other classes score as if it were positive, and not as if it were absent.
        assert same_sets(detections(found), detections(full, 'cat') + detections(full, 'cup'))
        assert not same_sets(detections(found), detections(absent))


def test_set_prompts_refuses_unknown_negatives_and_no_positives(inferencer):
    visual = [(random_image(60, 80), BOXES, NAMES)]
    with pytest.raises(InputError, match="'dig' is not among the prompts; did you mean 'dog'"):
        inferencer.set_prompts(visual=visual, negative='dig')
    with pytest.raises(InputError, match='all prompts are negative'):
        inferencer.set_prompts(visual=visual, negative=NAMES)


# ------------------------------------------------------------------------ text


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
    """An inferencer with a language model of 2 layers and ten words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    # Write a tokenizer and a model as the library transformers does.
    folder = tmp_path_factory.mktemp('bert')
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', 'cat', 'red', 'dog']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    # Build a detector with this language model.
    language_model = dict(
        type='BertModel',
        name=str(folder),
        max_tokens=64,
        pad_to_max=False,
        use_sub_sentence_represent=True,
        special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
        add_pooling_layer=False,
    )
    files = write_model(tmp_path_factory.mktemp('reader'), **{'model.prompts.language_model': language_model})
    return DINOR1Inferencer(files.config, files.checkpoint, device='cpu')


def test_text_prompts_are_detected(reader, image_folder):
    assert reader.set_prompts(text='cat . red dog').names == ('cat', 'red dog')
    expected = reader.predict(image_folder, score_thr=0, as_dict=True)
    assert {name for result in expected for name in result['names']} == {'cat', 'red dog'}
    reader.set_prompts(text=['cat', 'red dog', 'cat'])
    assert_same(reader.predict(image_folder, score_thr=0, as_dict=True), expected)
    reader.set_prompts(text=['cat', 'red dog'], negative='red dog')
    hidden = reader.predict(image_folder, score_thr=0, as_dict=True)
    for full, found in zip(expected, hidden, strict=True):
        assert same_sets(detections(found), detections(full, 'cat'))


def test_set_prompts_averages_text_and_boxes_of_a_class(reader, image_folder, tmp_path):
    visual = [(random_image(60, 80), BOXES[:2], ['cat', 'thing'])]
    seen = embeddings_of(reader, visual=visual)
    read = reader.set_prompts(text=['cat', 'dog']).class_embeddings()[0]
    mixed = embeddings_of(reader, visual=visual, text=['cat', 'dog'])
    assert list(mixed) == ['cat', 'thing', 'dog']
    mean = (seen['cat'] / seen['cat'].norm() + read / read.norm()) / 2
    expected = mean * (seen['cat'].norm() + read.norm()) / 2
    torch.testing.assert_close(mixed['cat'], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed['thing'], seen['thing'], rtol=1e-5, atol=1e-5)

    results = reader.predict(image_folder, score_thr=0, as_dict=True)
    reader.save_bank(tmp_path / 'bank.safetensors')
    assert PromptBank.load(tmp_path / 'bank.safetensors').names == ('cat', 'thing')
    reader.set_prompts(bank=tmp_path / 'bank.safetensors', text=['cat', 'dog'])
    assert_same(reader.predict(image_folder, score_thr=0, as_dict=True), results)


def test_set_prompts_refuses_text_without_a_language_model(inferencer):
    with pytest.raises(InputError, match='no language model'):
        inferencer.set_prompts(text='cat . dog')


# ------------------------------------------------------------------------ loading


def test_inferencer_does_not_change_a_loaded_config(model_files, image_folder):
    cfg = Config.fromfile(model_files.config)
    results = []
    for _ in range(2):
        inferencer = DINOR1Inferencer(cfg, model_files.checkpoint, device='cpu')
        inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
        results.append(inferencer.predict(image_folder, score_thr=0, as_dict=True))
    assert_same(*results)


def test_inferencer_prepares_images_equally_with_load_resized_image(model_files, image_folder, tmp_path):
    results = []
    for one_step in (False, True):
        cfg = Config.fromfile(model_files.config)
        steps = cfg.test_dataloader.dataset.pipeline
        # Load and resize images in one step.
        if one_step:
            resize = steps[1]
            assert [step.type for step in steps[:2]] == ['LoadImageFromFile', 'Resize']
            cfg.test_dataloader.dataset.pipeline = [
                dict(resize, type='LoadResizedImage', cache=dict(folder=str(tmp_path / 'cache'))),
                *steps[2:],
            ]
        inferencer = DINOR1Inferencer(cfg, model_files.checkpoint, device='cpu')
        inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
        results.append(inferencer.predict(image_folder, score_thr=0, as_dict=True))
    assert_same(*results)
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda cfg: cfg.pop('model'), 'has no model'),
        (lambda cfg: cfg.pop('test_dataloader'), 'must begin with LoadImageFromFile'),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline.pop(0), 'must begin with LoadImageFromFile'),
    ],
)
def test_inferencer_refuses_incomplete_configs(model_files, spoil, message):
    cfg = Config.fromfile(model_files.config)
    spoil(cfg)
    with pytest.raises(InputError, match=message):
        DINOR1Inferencer(cfg, model_files.checkpoint, device='cpu')


def test_inferencer_refuses_unknown_devices(model_files):
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


def test_set_prompts_refuses_bank_of_another_width(inferencer):
    bank = PromptBank(torch.zeros(1, 7), ('a',), (1,), fingerprint(inferencer.model))
    with pytest.raises(InputError, match='embeddings of width 7'):
        inferencer.set_prompts(bank=bank)


@pytest.mark.parametrize('mode', ['I;16', 'I'])
def test_predict_of_16_bit_pil_image_equals_its_file(prompted, tmp_path, mode):
    values = random_image(60, 80)[..., 0].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / 'grey16.png'), values)
    image = Image.fromarray(values).convert('I') if mode == 'I' else Image.fromarray(values)
    assert image.mode == mode
    by_path, by_image = (prompted.predict(one, score_thr=0, as_dict=True) for one in (tmp_path / 'grey16.png', image))
    assert_same(by_image, by_path)


def test_predict_warns_of_a_12_bit_image_in_a_16_bit_file(prompted, tmp_path, logged_warnings):
    path = tmp_path / 'grey12.png'
    cv2.imwrite(str(path), random_image(60, 80)[..., 0].astype(np.uint16) * 16)
    prompted.predict(path, tile=32)
    (message,) = logged_warnings()
    assert message.startswith(f'{path}: a 16-bit image with no pixel above')


def test_predict_refuses_pil_images_of_unknown_range(prompted):
    for values in (np.zeros((9, 9), np.float32), np.full((9, 9), 2**20, np.int32)):
        with pytest.raises(InputError, match='convert it to 8 bits first'):
            prompted.predict(Image.fromarray(values))


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
def test_predict_refuses_options_out_of_range(prompted, image_folder, options, message):
    with pytest.raises(InputError, match=message):
        prompted.predict(image_folder / '0.png', **options)


def test_predict_of_truncated_jpeg_is_one_line(prompted, tmp_path):
    cv2.imwrite(str(tmp_path / 'whole.jpg'), random_image(60, 80))
    path = tmp_path / 'truncated.jpg'
    path.write_bytes((tmp_path / 'whole.jpg').read_bytes()[:1500])
    with pytest.raises(InputError, match='truncated.jpg: a truncated or damaged image'):
        prompted.predict(path)


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


def test_predict_reads_files_that_only_pillow_reads(prompted, tmp_path):
    image = random_image(60, 80)
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(tmp_path / 'a.tga')
    (sample,) = prompted.predict(tmp_path / 'a.tga', score_thr=0)
    assert sample.img_path == str(tmp_path / 'a.tga')
    expected = prompted.predict(image, score_thr=0, as_dict=True)
    assert_same([prompted.to_dict(sample)], expected)
    by_file, by_array = (embeddings_of(prompted, visual=[(i, BOXES[0], 'a')]) for i in (tmp_path / 'a.tga', image))
    assert torch.equal(by_file['a'], by_array['a'])


@pytest.mark.parametrize(
    ('options', 'message'), [(dict(score_thr=None), 'score_thr must be'), (dict(batch_size=1.0), 'batch_size must be')]
)
def test_detect_files_refuses_options_out_of_range(prompted, image_folder, tmp_path, options, message):
    targets = [str(image_folder / '0.png')]
    with pytest.raises(InputError, match=message):
        detect_files(prompted, targets, output_paths(targets, tmp_path), **options)
    assert list(tmp_path.iterdir()) == []


def test_set_prompts_refuses_a_truncated_reference_image(prompted, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), random_image(60, 80))
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match='a.jpg: a truncated or damaged image'):
        prompted.set_prompts(visual=[(tmp_path / 'a.jpg', BOXES[0], 'cat')])
