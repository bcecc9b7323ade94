"""Files of configs/_base_/datasets: parsing, the environment variable DINOR1_DATA, data sets and loaders."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from dinor1.datasets import CocoPromptDataset, ResumableBatchSampler
from dinor1.evaluation import CocoPromptMetric
from dinor1.registry import DATASETS, METRICS

FOLDER = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
# Not tested here: files in the form of LVIS have another metric (test_lvis.py, icons/), and federated photographs have
# more files (test_photographs.py).
PHOTOGRAPHS = {'photo_mix', 'photo_mix_novel', 'photographs'}
LVIS = {'lvis_detection', 'lvis_minival_detection', 'icons', 'icons_novel'}
OTHERS = {'small_coco', 'mnist', 'affnist', *LVIS, *PHOTOGRAPHS}
NAMES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem not in OTHERS)
# 'folder' stands for a set of the user's own.
SMALL_REAL_SETS = sorted(
    name for name in NAMES if name != 'folder' and 'small_coco.py' in (FOLDER / f'{name}.py').read_text()
)


def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


def dataset_configs(cfg: Config) -> dict:
    loaders = {split: cfg[f'{split}_dataloader'].dataset for split in ('train', 'val', 'test')}
    return loaders | {'prompt': cfg.prompt_dataset}


def write_data(cfg: Config) -> None:
    """Write two images of 150 x 100 pixels, one of them without boxes, to the paths of the config."""
    for dataset in dataset_configs(cfg).values():
        root = Path(dataset.data_root)
        for folder in (root / dataset.data_prefix.img, (root / dataset.ann_file).parent):
            folder.mkdir(parents=True, exist_ok=True)
        images = [dict(id=i, file_name=f'{i}.jpg', width=150, height=100) for i in (1, 2)]
        for image in images:
            cv2.imwrite(str(root / dataset.data_prefix.img / image['file_name']), np.zeros((100, 150, 3)))
        box = dict(id=1, image_id=1, category_id=3, bbox=[30, 20, 60, 40], area=2400, iscrowd=0)
        categories = [dict(id=3, name='cat'), dict(id=1, name='dog')]
        content = dict(images=images, categories=categories, annotations=[box])
        (root / dataset.ann_file).write_text(json.dumps(content))


def without_workers(loader: dict) -> dict:
    return copy.deepcopy(loader) | dict(num_workers=0, persistent_workers=False)


def test_dataset_configs_exist():
    assert {'shapes', 'shapes_novel', 'coco_detection', 'objects365_detection', 'raccoon'} <= set(NAMES)
    assert len(SMALL_REAL_SETS) == 8


@pytest.mark.parametrize('name', NAMES)
def test_data_root_follows_environment_variable(name, monkeypatch):
    monkeypatch.delenv('DINOR1_DATA', raising=False)
    before = load(name)
    monkeypatch.setenv('DINOR1_DATA', '/elsewhere')
    after = load(name)
    for cfg, root in ((before, 'data/'), (after, '/elsewhere/')):
        for dataset in dataset_configs(cfg).values():
            assert dataset.data_root.startswith(root)
        for split in ('val', 'test'):
            dataset = cfg[f'{split}_dataloader'].dataset
            assert cfg[f'{split}_evaluator'].ann_file == f'{dataset.data_root}/{dataset.ann_file}'


@pytest.mark.parametrize('name', NAMES)
def test_configs_build_data_sets_loaders_and_metrics(name, monkeypatch, tmp_path):
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    cfg = load(name)
    write_data(cfg)

    train = Runner.build_dataloader(without_workers(cfg.train_dataloader), seed=0)
    assert isinstance(train.dataset, CocoPromptDataset)
    assert not train.dataset.test_mode
    assert isinstance(train.batch_sampler, ResumableBatchSampler)
    assert train.batch_sampler.batch_size == cfg.train_dataloader.batch_size
    # Training includes the image without boxes.
    assert len(train.dataset) == 2
    batch = next(iter(train))
    assert len(batch['inputs']) == len(batch['data_samples']) == 2
    assert {'img_id', 'ori_shape', 'img_shape'} <= set(batch['data_samples'][0].metainfo_keys())

    for split in ('val', 'test'):
        loader = Runner.build_dataloader(without_workers(cfg[f'{split}_dataloader']), seed=0)
        assert loader.dataset.test_mode
        sample = next(iter(loader))['data_samples'][0]
        # Predictions are divided by scale_factor: ground truth is in pixels of the original image.
        width, height = sample.scale_factor[0] * 150, sample.scale_factor[1] * 100
        assert width / height == pytest.approx(1.5, rel=0.01)
        # The resized image fills the network input, or the rest is padding.
        assert width <= sample.img_shape[1] + 0.5
        assert height <= sample.img_shape[0] + 0.5
        assert sample.gt_instances.bboxes.tensor.tolist() == [[30, 20, 90, 60]]
        metric = METRICS.build(cfg[f'{split}_evaluator'])
        assert isinstance(metric, CocoPromptMetric)
        metric.dataset_meta = loader.dataset.metainfo
        assert metric.category_ids.tolist() == [1, 3]


@pytest.mark.parametrize('name', NAMES)
def test_prompt_dataset_scales_boxes_with_the_image(name, monkeypatch, tmp_path):
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    cfg = load(name)
    write_data(cfg)
    dataset = DATASETS.build(cfg.prompt_dataset)
    assert dataset.test_mode
    assert dataset.metainfo['classes'] == ('dog', 'cat')
    sample = dataset[0]['data_samples']
    width, height = sample.scale_factor
    expected = [30 * width, 20 * height, 90 * width, 60 * height]
    assert sample.gt_instances.bboxes.tensor[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert sample.gt_instances.labels.tolist() == [1]


def test_shapes_pipeline_pads_without_resizing(monkeypatch, tmp_path):
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    cfg = load('shapes')
    write_data(cfg)
    for name, dataset in dataset_configs(cfg).items():
        sample = DATASETS.build(dataset)[0]
        assert sample['inputs'].shape == (3, 160, 160)
        if name != 'train':  # which may be flipped
            image = cv2.imread(sample['data_samples'].img_path).transpose(2, 0, 1)
            assert (sample['inputs'][:, :100, :150].numpy() == image).all()
            assert (sample['inputs'][:, 100:] == 114).all()


@pytest.mark.shared
@pytest.mark.parametrize('name', SMALL_REAL_SETS)
def test_small_real_sets_are_readable(name, shared_dir, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', str(shared_dir / 'data'))
    classes = set()
    for dataset in dataset_configs(load(name)).values():
        dataset = DATASETS.build(dataset)
        classes.add(dataset.metainfo['classes'])
        assert max(dataset[0]['inputs'].shape[1:]) == 320
    assert len(classes) == 1
