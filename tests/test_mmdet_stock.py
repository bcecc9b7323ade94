"""MMDetection's own configs, as its wheel ships them, train, resume and test through the filled gaps."""

import json
import math

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner

CLASSES = ('disc', 'box')
DINO = 'dino/dino-4scale_r50_8xb2-12e_coco.py'
DEFORMABLE_DETR = 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'


@pytest.fixture(scope='module')
def coco_root(tmp_path_factory):
    """Four 64 x 96 images with one or two filled shapes each, as a COCO data set."""
    root = tmp_path_factory.mktemp('coco')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(4):
        image = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
        for _ in range(1 + image_id % 2):
            category = int(rng.integers(2))
            x, y = (int(v) for v in rng.integers(4, 36, 2))
            if category == 0:
                cv2.circle(image, (x + 12, y + 12), 12, (0, 0, 255), -1)
            else:
                cv2.rectangle(image, (x, y), (x + 24, y + 24), (255, 0, 0), -1)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category + 1,
                    bbox=[x, y, 24, 24],
                    area=576,
                    iscrowd=0,
                )
            )
        cv2.imwrite(str(root / f'{image_id}.png'), image)
        images.append(dict(id=image_id, file_name=f'{image_id}.png', height=64, width=96))
    categories = [dict(id=index + 1, name=name) for index, name in enumerate(CLASSES)]
    annotation_file = root / 'annotations.json'
    annotation_file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return root


def shrink(cfg: Config, coco_root, work_dir) -> Config:
    """Keep the config's parts and make them small: narrow ResNet-18, few layers and queries, our images."""
    dataset = dict(
        data_root=str(coco_root),
        ann_file='annotations.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=CLASSES),
    )
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
    evaluator = dict(ann_file=str(coco_root / 'annotations.json'))
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            randomness=dict(seed=0),
            model=dict(
                num_queries=20,
                backbone=dict(depth=18, base_channels=8, init_cfg=None),
                neck=dict(in_channels=[16, 32, 64]),
                encoder=dict(num_layers=1),
                decoder=dict(num_layers=2),
                bbox_head=dict(num_classes=len(CLASSES)),
                test_cfg=dict(max_per_img=10),
            ),
            default_hooks=dict(logger=dict(interval=1)),
            train_dataloader=loader,
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            train_cfg=dict(max_epochs=1, val_interval=10),
        )
    )
    resize = dict(type='Resize', scale=(96, 64), keep_ratio=True)
    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val', 'test')]
    for pipeline in pipelines:
        for index, transform in enumerate(pipeline):
            if transform.type in ('Resize', 'RandomChoice'):  # the stock choice is among resizes to 400-1333
                pipeline[index] = resize
    return cfg


def train(cfg: Config, name: str) -> Runner:
    cfg.experiment_name = name  # MMEngine keeps one log per name
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses, _ = runner.message_hub.log_scalars['train/loss'].data
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    return runner


@pytest.mark.parametrize('name', [DINO, DEFORMABLE_DETR])
def test_stock_config_trains_and_tests(name, coco_root, tmp_path):
    runner = train(shrink(get_config(f'mmdet::{name}'), coco_root, tmp_path), name)
    assert runner.iter == 2
    metrics = runner.test()
    assert 0 <= metrics['coco/bbox_mAP'] <= 1


def test_training_resumes_from_a_checkpoint(coco_root, tmp_path):
    """Torch loads plain weights by default; MMEngine's checkpoints hold more, optimizer and log included."""
    cfg = shrink(get_config(f'mmdet::{DEFORMABLE_DETR}'), coco_root, tmp_path)
    first = train(cfg, 'first')
    cfg.train_cfg.max_epochs = 2
    cfg.resume = True
    cfg.experiment_name = 'second'
    second = Runner.from_cfg(cfg)
    second.train()
    assert (first.iter, second.iter, second.epoch) == (2, 4, 2)
    steps = {int(state['step']) for state in second.optim_wrapper.optimizer.state.values()}
    assert steps == {4}
    losses, _ = second.message_hub.log_scalars['train/loss'].data
    assert losses[:2].tolist() == first.message_hub.log_scalars['train/loss'].data[0].tolist()
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
