"""GRQO on MMDetection's plain DINO, from its recipe: training, reference and evaluation without prompts."""

import json
from pathlib import Path

import cv2

from tests.engine.conftest import short_run

RECIPE = 'configs/dino_grqo/dino-grqo_nano_1xb8_6e_shapes.py'


def test_dino_grqo_recipe_trains_and_validates(read_shapes_config, train):
    """24 images in batches of 12; the reference is copied before the first iteration and differs in the second."""
    # Train two iterations with GRQO.
    cfg = read_shapes_config(RECIPE)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].update(num_workers=0, persistent_workers=False)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.log_level = 'ERROR'
    overrides = {'train_dataloader.batch_size': 12, 'train_cfg.max_epochs': 1, 'param_scheduler': []}
    # In training mode, batch norm gives both models the same outputs.
    overrides |= {'default_hooks.reference.warmup': 0, 'default_hooks.reference.mode': 'train'}
    seen = []

    def look(runner):
        seen.append(runner.model.reference is not None)

    runner, record = train('run', look, cfg=cfg, **overrides)
    assert seen == [True, True]
    first, second = record.history
    for scalars in record.history:
        assert all(value == value and abs(value) < 1e6 for value in scalars.values())
        assert {'loss_grqo', 'd0.loss_grqo', 'grqo_reward_std', 'dn_loss_cls', 'enc_loss_cls'} <= set(scalars)
    # With equal weights and no dropout, the two models differ only by rounding, from another memory layout. Logits
    # differ by about 1e-4, and the KL is half the square of that.
    assert first['grqo_kl'] < 1e-6 < second['grqo_kl']
    # MMEngine's own loop works with our metric and writes our images.
    assert 0 <= runner.message_hub.get_scalar('val/coco/bbox_mAP').current() <= 1
    assert cv2.imread(str(Path(runner.work_dir) / 'vis/val_epoch_1.png')) is not None


def test_dino_grqo_recipe_begins_with_supervised_training(read_shapes_config, train):
    """The loss is in the config from the start, and the hook enables it after the warm-up."""
    cfg = short_run(read_shapes_config(RECIPE), epochs=2)
    _, record = train('run', cfg=cfg, **{'train_dataloader.batch_size': 24, 'param_scheduler': []})
    assert ['loss_grqo' in scalars for scalars in record.history] == [False, True]


def test_loss_gradient_hook_measures_dino_grqo(read_shapes_config, train):
    cfg = short_run(read_shapes_config(RECIPE), epochs=1)
    overrides = {'train_dataloader.batch_size': 24, 'param_scheduler': [], 'default_hooks.reference.warmup': 0}
    hook = dict(type='LossGradientHook', interval=1)
    runner, _ = train('run', cfg=cfg, **overrides, **{'default_hooks.gradients': hook})
    (record,) = json.loads((Path(runner.work_dir) / 'loss_gradients.json').read_text())
    assert set(record['norm']) == {'class', 'box', 'encoder', 'denoising', 'advantage', 'kl'}
    assert record['norm']['advantage'] > 0
