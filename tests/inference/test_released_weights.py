"""Weights that come with dinor1: writing, addresses, and the default detector."""

import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from safetensors import safe_open
from safetensors.torch import save_file

from dinor1.inference import DINOR1Inferencer
from dinor1.utils import released_weights
from dinor1.utils.checkpoint import check_checkpoint, load_model, read_state_dict
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.released_weights import write_weights_file
from tests.model_files import random_image


@pytest.fixture
def cfg(model_files):
    return Config.fromfile(model_files.config)


@pytest.fixture
def folder(model_files, tmp_path, monkeypatch):
    """Folder of released weights, with those of a tiny model under the name ``lite``."""
    monkeypatch.setattr(released_weights, 'FOLDER', tmp_path)
    write_weights_file(tmp_path / 'lite.safetensors', read_state_dict(model_files.checkpoint), str(model_files.config))
    return tmp_path


def test_weights_file_has_half_precision_without_language_model(cfg, model_files, tmp_path):
    state = read_state_dict(model_files.checkpoint)
    path = tmp_path / 'out.safetensors'
    more = {'language_model.weight': torch.ones(3), 'counter': torch.tensor(7)}
    write_weights_file(path, state | more, 'some/config', source_sha256='0' * 64)
    with safe_open(path, framework='pt') as file:
        names = set(file.keys())
        assert names == state.keys() | {'counter'}
        assert file.metadata() == dict(format='dinor1.weights/1', config='some/config', source_sha256='0' * 64)
        assert file.get_tensor('counter') == 7
        for name, tensor in state.items():
            if tensor.is_floating_point():
                assert torch.equal(file.get_tensor(name), tensor.half())


def test_weights_beyond_half_precision_are_rejected(tmp_path):
    with pytest.raises(InputError, match='neck.weight: has values that half precision cannot represent'):
        write_weights_file(tmp_path / 'out.safetensors', {'neck.weight': torch.tensor([1e6])}, 'some/config')
    assert not list(tmp_path.iterdir())


def test_weights_file_loads_like_a_checkpoint(cfg, folder, model_files):
    state = read_state_dict(model_files.checkpoint)
    for path in (str(folder / 'lite.safetensors'), 'dinor1://lite'):
        model = load_model(cfg, path)
        loaded = model.state_dict()
        assert loaded.keys() == state.keys()
        for name, tensor in state.items():
            assert loaded[name].dtype == tensor.dtype
            torch.testing.assert_close(loaded[name], tensor, rtol=2**-11, atol=2**-24)  # rounding to half precision
        check_checkpoint(model, path)
        with pytest.raises(InputError, match='so no run can be resumed from it'):
            check_checkpoint(model, path, resume=True)
    # MMEngine reads it for load_from.
    assert CheckpointLoader.load_checkpoint('dinor1://lite', 'cpu', None)['state_dict'].keys() == state.keys()


def test_default_detector_is_that_of_the_released_weights(folder, model_files):
    image, box = random_image(60, 80), [[5, 5, 30, 40]]
    expected = DINOR1Inferencer(model_files.config, str(folder / 'lite.safetensors'), device='cpu')
    expected = expected(image, prompts=[(image, box, 'cat')], score_thr=0.0, as_dict=True)
    for name in (None, 'lite', 'dinor1://lite'):
        assert DINOR1Inferencer(checkpoint=name, device='cpu')(
            image, [(image, box, 'cat')], score_thr=0.0, as_dict=True
        ) == (expected)


def test_unknown_names_and_files_are_rejected(folder, model_files):
    with pytest.raises(
        InputError, match='dinor1://light: no weights of this name come with dinor1; did you mean dinor1://lite'
    ):
        DINOR1Inferencer(checkpoint='dinor1://light')
    with pytest.raises(InputError, match='a config without a checkpoint; give both'):
        DINOR1Inferencer(model_files.config)
    # A file without the name of its config, and a damaged file.
    save_file({'a': torch.zeros(1)}, folder / 'bare.safetensors')
    with pytest.raises(InputError, match='bare.safetensors: does not name the config'):
        DINOR1Inferencer(checkpoint='bare')
    (folder / 'cut.safetensors').write_bytes((folder / 'lite.safetensors').read_bytes()[:1000])
    for path in ('dinor1://cut', str(folder / 'cut.safetensors')):
        with pytest.raises(InputError, match='not a readable safetensors file'):
            read_state_dict(path)


def test_text_side_is_left_out_where_minilm_is_missing(folder, model_files, monkeypatch):
    """Boxes work without the language model; text prompts name what is missing."""

    def missing():
        raise InputError('MiniLM: no installed package contains it')

    monkeypatch.setattr('dinor1.inference.released.minilm_folder', missing)
    config = folder / 'with_text.py'
    config.write_text(
        f"_base_ = '{model_files.config}'\n"
        "model = dict(prompts=dict(language_model=dict(_delete_=True, type='MiniLM'), text_prompts='class',\n"
        "                          alignment=dict(_delete_=True, type='LanguageAlignment')))\n"
    )
    text_side = {'text_feat_map.weight': torch.zeros(4, 4), 'alignment.logit_scale': torch.tensor(1.0)}
    write_weights_file(folder / 'text.safetensors', read_state_dict(model_files.checkpoint) | text_side, str(config))
    inferencer = DINOR1Inferencer(checkpoint='text', device='cpu')
    image = random_image(60, 80)
    assert len(inferencer(image, [(image, [[5, 5, 30, 40]], 'cat')])) == 1
    with pytest.raises(InputError, match='takes no text prompts'):
        inferencer.set_prompts(text='cat')


def test_publish_tool_writes_a_file_of_the_default_detector(folder, model_files, repo):
    (folder / 'lite.safetensors').unlink()
    out = folder / 'lite.safetensors'
    tool = [sys.executable, str(repo / 'tools/model_converters/publish_model.py'), model_files.checkpoint, str(out)]
    result = subprocess.run([*tool, '--config', str(model_files.config)], capture_output=True, text=True, check=True)
    assert 'MiB, SHA-256' in result.stdout
    assert load_config(released_weights.config_of(out)).model == load_config(str(model_files.config)).model
    # Scores of 0.1 become 0.3 in a shifted file, in the same order.
    shifted = folder / 'shifted.safetensors'
    tool[-1] = str(shifted)
    subprocess.run([*tool, '--config', str(model_files.config), '--threshold', '0.1'], check=True)
    image, logits = random_image(60, 80), []
    for path in (out, shifted):
        found = DINOR1Inferencer(model_files.config, str(path), device='cpu')(
            image, [(image, [[5, 5, 30, 40]], 'cat')], score_thr=0.0
        )
        logits.append(found[0].pred_instances.scores.logit())
    shift = torch.tensor(0.3).logit() - torch.tensor(0.1).logit()
    torch.testing.assert_close(logits[1], logits[0] + shift, rtol=0, atol=4e-3)  # the bias in half precision
    # Another architecture is rejected, and nothing is written.
    shutil.copy(model_files.checkpoint, folder / 'copy.pth')
    wrong = subprocess.run(
        [*tool[:2], str(folder / 'copy.pth'), str(folder / 'new.safetensors'), '--config']
        + ['vis_gdino/vis-gdino_nano_1xb8_6e_shapes'],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert 'a checkpoint of another architecture' in wrong.stderr
    assert not (folder / 'new.safetensors').exists()


# The released detector --------------------------------------------------------------------------------------


def test_lite_finds_all_discs_from_one(repo):
    """Six discs on a dark ground, one of them boxed; the weights of the repository."""
    path = repo / 'dinor1/weights/lite.safetensors'
    assert path.stat().st_size < 16 * 2**20
    image = np.full((288, 288, 3), 40, np.uint8)
    centres = [(60, 60), (150, 50), (235, 70), (60, 200), (150, 190), (230, 220)]
    for x, y in centres:
        cv2.circle(image, (x, y), 26, (180, 190, 200), -1)
        cv2.circle(image, (x, y), 18, (120, 130, 150), 2)
    image = cv2.GaussianBlur(image, (3, 3), 1)
    found = DINOR1Inferencer(device='cpu')(
        image, [(image, [[34, 34, 86, 86]], 'disc')], score_thr=0.2, nms_thr=0.7, as_dict=True
    )[0]
    # Every disc has a box whose corners are within five pixels, and there are no others.
    expected = np.array([[x - 26, y - 26, x + 26, y + 26] for x, y in centres])
    boxes = np.array(found['bboxes'])
    assert boxes.shape == (6, 4)
    distance = np.abs(boxes[:, None] - expected).max(-1)
    assert sorted(distance.argmin(1).tolist()) == [0, 1, 2, 3, 4, 5]
    assert distance.min(1).max() < 5
