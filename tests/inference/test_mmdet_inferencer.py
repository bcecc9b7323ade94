"""The inferencers of MMDetection with a config and a checkpoint of dinor1."""

import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config

from dinor1.inference import DINOR1Inferencer
from dinor1.utils.errors import InputError
from tests.model_files import write_model

META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'text')
# MMDetection says that the checkpoint has no class names, which do not matter for prompts.
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Config and checkpoint of a tiny model that takes text prompts."""
    language = {'model.prompts.language_model': dict(type='WordHashModel'), 'model.prompts.text_prompts': 'class'}
    files = write_model(tmp_path_factory.mktemp('text_model'), **language)
    cfg = Config.fromfile(files.config)
    cfg.test_dataloader.dataset.update(type='CocoPromptDataset', ann_file='', test_mode=True)
    cfg.test_dataloader.dataset.pipeline[-1].meta_keys = META_KEYS
    cfg.visualizer = dict(type='DetLocalVisualizer', name=str(files.config))
    cfg.dump(files.config)
    return files


@pytest.fixture
def expected(files, image_folder):
    """Detections of dinor1's own inferencer for the same classes."""
    inferencer = DINOR1Inferencer(files.config, files.checkpoint, device='cpu')
    inferencer.set_prompts(text=['cat', 'traffic light'])
    return inferencer.predict(str(image_folder / '0.png'), score_thr=0.0)[0].pred_instances


def assert_same(found, expected):
    """Check that two sets of detections are equal, in the order of scores."""
    assert len(found) == len(expected) > 0
    for key in ('scores', 'bboxes', 'labels'):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('text', ['cat . traffic light .', 'cat. traffic light'])
def test_inference_detector_takes_text_prompts(files, image_folder, expected, text):
    model = init_detector(files.config, files.checkpoint, device='cpu')
    sample = inference_detector(model, str(image_folder / '0.png'), text_prompt=text, custom_entities=True)
    assert_same(sample.pred_instances, expected)
    assert set(sample.pred_instances.label_names) <= {'cat', 'traffic light'}


def test_det_inferencer_takes_text_prompts(files, image_folder, expected):
    inferencer = DetInferencer(files.config, files.checkpoint, device='cpu', scope='dinor1', show_progress=False)
    found = inferencer(
        str(image_folder / '0.png'), texts='cat . traffic light', return_datasamples=True, no_save_vis=True
    )
    assert_same(found['predictions'][0].pred_instances, expected)


def test_inference_detector_without_prompts_is_one_line(files, model_files, image_folder):
    model = init_detector(files.config, files.checkpoint, device='cpu')
    with pytest.raises(InputError, match="no prompts; .* add 'text' to meta_keys of PackDetInputs") as error:
        inference_detector(model, str(image_folder / '0.png'))
    assert '\n' not in str(error.value)


def test_inference_detector_without_language_model_is_one_line(files, model_files, image_folder):
    cfg = Config.fromfile(files.config)
    cfg.model = Config.fromfile(model_files.config).model
    model = init_detector(cfg, model_files.checkpoint, device='cpu')
    with pytest.raises(InputError, match='this model has no language model and takes no text prompts'):
        inference_detector(model, str(image_folder / '0.png'), text_prompt='cat')
