"""Recipes of configs/blocks/lie: equal numbers of parameters, equal data except augmentation, a step of each."""

import pytest
import torch
from mmengine.config import Config

from dinor1.registry import MODELS
from dinor1.studies.study import load_study

NAMES = ('affnist_gl2', 'affnist_sl2', 'affnist_cnn', 'affnist_cnn_aug')


def load(repo, name):
    return Config.fromfile(repo / f'configs/blocks/lie/{name}.py')


@pytest.mark.parametrize('name', NAMES)
def test_lie_configs_have_equal_numbers_of_parameters(repo, name):
    torch.manual_seed(0)
    model = MODELS.build(load(repo, name).model).train()
    # The study's table states the same number.
    assert sum(parameter.numel() for parameter in model.parameters()) == 9_018
    images, labels = torch.randint(0, 256, (4, 1, 40, 40), dtype=torch.uint8), torch.arange(4)
    losses = model(images, labels, mode='loss')
    losses['loss'].backward()
    assert losses['loss'].isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_lie_configs_differ_in_model_and_augmentation_only(repo):
    configs = {name: load(repo, name).to_dict() for name in NAMES}
    augmented = configs['affnist_cnn_aug']['train_dataloader']['dataset']
    assert augmented.pop('affine') == dict(shear=0.0, shift=False)
    assert augmented.pop('redraw')
    models = {name: cfg.pop('model') for name, cfg in configs.items()}
    assert all(cfg == configs['affnist_cnn'] for cfg in configs.values())
    assert models['affnist_cnn'] == models['affnist_cnn_aug']
    assert models['affnist_gl2']['backbone'].pop('group') == 'gl2'
    assert models['affnist_sl2']['backbone'].pop('group') == 'sl2'
    assert models['affnist_gl2'] == models['affnist_sl2']
    # Training digits are centred and not transformed, test digits are transformed.
    data = configs['affnist_cnn']
    assert 'affine' not in data['train_dataloader']['dataset']
    assert data['test_dataloader']['dataset']['affine'] == {} == data['val_dataloader']['dataset']['affine']


def test_lie_study_runs_all_arms(repo, monkeypatch):
    monkeypatch.chdir(repo)
    study = load_study('configs/studies/affnist.py')
    assert {run.config for run in study.runs} == {f'configs/blocks/lie/{name}.py' for name in NAMES}
    assert len(study.runs) == 12
    assert not any(run.options for run in study.runs)


def test_lie_detector_configs_differ_in_backbone_only(repo):
    plain, ours = (load(repo, f'vis-gdino_{name}_1xb8_3e_shapes') for name in ('nano', 'nano-gl2'))
    sizes = [sum(p.numel() for p in MODELS.build(cfg.model.backbone).parameters()) for cfg in (plain, ours)]
    # docs/research/lie.md states these numbers.
    assert sizes == [395_316, 394_004]
    plain, ours = plain.to_dict(), ours.to_dict()
    assert ours['model'].pop('backbone') != plain['model'].pop('backbone')
    assert ours == plain
    # Tests use warped images, prompts unwarped ones.
    test, prompts = ours['test_dataloader']['dataset'], ours['prompt_dataset']
    assert test['data_root'].endswith('shapes_warped')
    assert prompts['data_root'].endswith('shapes_canvas')
    assert ours['test_evaluator']['ann_file'] == f'{test["data_root"]}/{test["ann_file"]}'
