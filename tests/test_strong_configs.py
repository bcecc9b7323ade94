"""Configs of the strong recipe: their baselines with other settings of prompts, batches and scores, and a step."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from dinor1.models import DINOR1
from dinor1.registry import MODELS
from dinor1.utils.config import load_config
from tests.conftest import ROOT

STRONG = sorted((ROOT / 'configs/strong').glob('*.py'))
BASELINES = ROOT / 'configs/vis_gdino'


def each(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


def baseline_of(path: Path) -> Path:
    if path.name.startswith('strong-grqo'):
        return ROOT / 'configs/dino_r1' / path.name.replace('strong-grqo', 'dino-r1', 1)
    return BASELINES / path.name.replace('strong', 'vis-gdino', 1)


def test_every_baseline_on_icons_coco_and_objects365_has_a_strong_recipe():
    ends = ('e_icons', 'e_coco', 'e_o365')
    assert {baseline_of(path) for path in STRONG if path.name.startswith('strong_')} == {
        p for p in BASELINES.glob('*.py') if p.stem.endswith(ends)
    }


@each(STRONG)
def test_strong_recipe_differs_from_its_baseline_by_its_settings_only(path):
    ours, theirs = load_config(str(path)), load_config(str(baseline_of(path)))
    for name in ('strong_prompts', 'strong_batches', 'strong_scores'):
        ours.pop(name)
    assert ours.model.prompts.pop('prompt_sampling') == 'class_prototype'
    assert ours.model.prompts.pop('exclude_self')
    assert ours.model.test_cfg.pop('rescoring') == {}
    assert ours.model.test_cfg.pop('nms').type == 'nms'
    if not path.stem.endswith('_coco'):
        assert ours.train_dataloader.pop('batch_sampler').to_dict() == dict(type='SharedClassBatchSampler')
        theirs.train_dataloader.pop('batch_sampler')
    assert ours.to_dict() == theirs.to_dict()


@each([path for path in STRONG if '_3e_icons' in path.name or '_swin-t_' in path.name])
def test_strong_recipe_takes_an_optimizer_step_at_reduced_size(path, make_batch, untrained_bert):
    """Two images of 64 pixels; the other sizes differ by the number of channels and layers."""
    cfg = load_config(str(path))
    # Do not read the weights of the backbone.
    cfg.model.backbone.update(
        dict(pretrained=False) if cfg.model.backbone.type == 'TimmBackbone' else dict(init_cfg=None)
    )
    model = MODELS.build(cfg.model)
    assert isinstance(model, DINOR1)
    model.init_weights()
    # Both images show class 1, so that each has an exemplar on the other.
    inputs, samples = make_batch((2, 2))
    for sample, labels in zip(samples, ([0, 1], [1, 2]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
        sample.set_metainfo(dict(text=('cat', 'dog', 'bird')))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss, _ = model.parse_losses(model.loss(inputs, samples))
    optimizer.update_params(loss)
    assert loss.isfinite()
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    for part in ('prompt_encoder', 'encoder', 'decoder', 'bbox_head'):
        assert any(name.startswith(part) for name in changed), part
