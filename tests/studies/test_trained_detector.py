"""Detectors that tools measure, with and without a checkpoint."""

import torch

from dinor1.studies.trained_detector import trained_detector, untrained_detector


def test_trained_detector_has_the_weights_of_the_checkpoint(model_files):
    model, cfg = trained_detector(model_files.config, model_files.checkpoint)
    expected = torch.load(model_files.checkpoint, weights_only=True)['state_dict']
    state_dict = model.state_dict()
    assert state_dict.keys() == expected.keys()
    assert all(torch.equal(state_dict[name], value) for name, value in expected.items())
    assert not model.training
    assert cfg.filename == model_files.config


def test_untrained_detector_has_the_same_weights_every_time(model_files):
    torch.manual_seed(7)
    first = untrained_detector(model_files.config)[0].state_dict()
    second = untrained_detector(model_files.config)[0]
    assert all(torch.equal(value, first[name]) for name, value in second.state_dict().items())
    assert not second.training


def test_trained_detector_applies_overrides(model_files):
    overrides = {'model.test_cfg.rescoring': dict(background=0.25)}
    model, cfg = trained_detector(model_files.config, model_files.checkpoint, overrides)
    assert model.rescoring.background == cfg.model.test_cfg.rescoring.background == 0.25
