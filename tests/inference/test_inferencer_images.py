"""DINOR1Inferencer: the images that it accepts, and how it prepares them."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.utils.errors import InputError
from tests.inference.comparisons import BOXES, NAMES, assert_same, embeddings_of
from tests.model_files import random_image


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
def test_predict_rejects_invalid_images(prompted, image, message):
    with pytest.raises(InputError, match=message):
        prompted.predict([random_image(30, 30), image])


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


def test_predict_rejects_pil_images_of_unknown_range(prompted):
    for values in (np.zeros((9, 9), np.float32), np.full((9, 9), 2**20, np.int32)):
        with pytest.raises(InputError, match='convert it to 8 bits first'):
            prompted.predict(Image.fromarray(values))


def test_predict_of_truncated_jpeg_is_one_line(prompted, tmp_path):
    cv2.imwrite(str(tmp_path / 'whole.jpg'), random_image(60, 80))
    path = tmp_path / 'truncated.jpg'
    path.write_bytes((tmp_path / 'whole.jpg').read_bytes()[:1500])
    with pytest.raises(InputError, match='truncated.jpg: a truncated or damaged image'):
        prompted.predict(path)


def test_predict_reads_files_that_only_pillow_reads(prompted, tmp_path):
    image = random_image(60, 80)
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(tmp_path / 'a.tga')
    (sample,) = prompted.predict(tmp_path / 'a.tga', score_thr=0)
    assert sample.img_path == str(tmp_path / 'a.tga')
    expected = prompted.predict(image, score_thr=0, as_dict=True)
    assert_same([prompted.to_dict(sample)], expected)
    by_file, by_array = (embeddings_of(prompted, visual=[(i, BOXES[0], 'a')]) for i in (tmp_path / 'a.tga', image))
    assert torch.equal(by_file['a'], by_array['a'])


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
