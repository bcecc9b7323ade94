"""LVIS: images and boxes of its records, and the configs that evaluate on it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import LVISV1Dataset
from mmengine.config import Config
from mmengine.runner import Runner

from dinor1.datasets.lvis import LVISPromptDataset
from dinor1.engine.loops import build_protocol
from dinor1.evaluation.lvis_metric import LVISFixedMetric
from dinor1.evaluation.prompt_protocols import VisualGeneric
from dinor1.registry import DATASETS, METRICS
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import perfect

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / 'configs/dino_r1').glob('*_zero-shot_lvis*.py'))
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


def make_content() -> dict:
    """Two images of COCO's two folders, in the format of LVIS v1: without file_name."""
    lists = dict(neg_category_ids=[3], not_exhaustive_category_ids=[])
    addresses = ('train2017/000000000007.jpg', 'val2017/000000000009.jpg')
    images = [
        dict(id=n, width=60, height=40, coco_url=f'http://images.cocodataset.org/{address}', **lists)
        for n, address in zip((7, 9), addresses, strict=True)
    ]
    box = dict(bbox=[10, 5, 20, 30], area=500.0, segmentation=[[10, 5, 30, 5, 30, 35]])
    annotations = [dict(box, id=1, image_id=9, category_id=8), dict(box, id=2, image_id=9, category_id=1)]
    names = {8: 'zebra', 1: 'aerosol_can', 3: 'yak'}
    categories = [dict(id=id, name=name, frequency='rcf'[n]) for n, (id, name) in enumerate(names.items())]
    return dict(images=images, annotations=annotations, categories=categories)


def write(folder: Path, content: dict, name: str = 'annotations/lvis.json') -> dict:
    """Files of a data set below ``folder``, and the arguments that name them."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in content['images']:
        file = folder / '/'.join(image['coco_url'].split('/')[-2:])
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.full((40, 60, 3), image['id'], np.uint8))
    return dict(data_root=str(folder), ann_file=name, data_prefix=dict(img=''))


# The data set ----------------------------------------------------------------------------------------------


def test_image_path_comes_from_coco_url(tmp_path):
    dataset = DATASETS.build(dict(type='LVISPromptDataset', **write(tmp_path, make_content()), pipeline=PIPELINE))
    assert dataset.metainfo['classes'] == ('aerosol_can', 'yak', 'zebra')
    paths = [Path(dataset.get_data_info(i)['img_path']).relative_to(tmp_path).as_posix() for i in range(2)]
    assert paths == ['train2017/000000000007.jpg', 'val2017/000000000009.jpg']
    sample = dataset[1]
    assert abs(float(sample['inputs'].float().mean()) - 9) < 1  # the image, up to JPEG
    assert sample['data_samples'].gt_instances.labels.tolist() == [2, 0]


def test_coco_url_overrides_file_name(tmp_path):
    """LVIS v0.5 also has file_name, with names of COCO 2014."""
    content = make_content()
    source = write(tmp_path, content)
    content['images'][0]['file_name'] = 'COCO_train2014_000000000007.jpg'
    del content['images'][1]['coco_url']
    content['images'][1]['file_name'] = 'val2017/000000000009.jpg'
    (tmp_path / 'annotations/lvis.json').write_text(json.dumps(content))
    dataset = LVISPromptDataset(**source, pipeline=PIPELINE)
    assert [Path(dataset.get_data_info(i)['img_path']).parent.name for i in range(2)] == ['train2017', 'val2017']


def test_masks_are_removed(tmp_path):
    dataset = LVISPromptDataset(**write(tmp_path, make_content()), pipeline=PIPELINE)
    assert [sorted(instance) for instance in dataset.get_data_info(1)['instances']] == [
        ['bbox', 'bbox_label', 'ignore_flag']
    ] * 2


@pytest.mark.shared
@pytest.mark.filterwarnings('ignore')
def test_records_equal_those_of_mmdetection(shared_dir, tmp_path):
    fixtures = shared_dir / 'data/fixtures/lvis'
    (tmp_path / 'val2017').symlink_to(fixtures / 'images')
    arguments = dict(data_prefix=dict(img=str(tmp_path)), pipeline=PIPELINE)
    ours = LVISPromptDataset(ann_file=str(fixtures / 'lvis_val_mini.json'), **arguments)
    theirs = LVISV1Dataset(ann_file=str(fixtures / 'lvis_val_mini.json'), test_mode=True, **arguments)
    assert len(ours) == len(theirs) == 15
    # Compare the records by image id, because their order differs.
    expected = {info['img_id']: info for info in map(theirs.get_data_info, range(15))}
    for index in range(15):
        info = ours.get_data_info(index)
        reference = expected[info['img_id']]
        for key in ('img_path', 'height', 'width'):
            assert info[key] == reference[key]
        boxes = [(i['bbox'], i['bbox_label'], i['ignore_flag']) for i in info['instances']]
        assert boxes == [(i['bbox'], i['bbox_label'], i['ignore_flag']) for i in reference['instances']]
        sample = ours[index]
        assert sample['inputs'].shape[1:] == (info['height'], info['width'])


def without_address(content):
    del content['images'][0]['coco_url']


def unknown_category(content):
    content['annotations'][1]['category_id'] = 2


def no_list(content):
    content['images'] = 'many'


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (without_address, r"entry 0 of 'images' has no valid 'file_name'"),
        (unknown_category, r'annotation 2 .* unknown category'),
        (no_list, r"it has no list 'images'"),
    ],
)
def test_defective_lvis_file_is_an_error(damage, message, tmp_path):
    source, content = write(tmp_path, make_content()), make_content()
    damage(content)
    (tmp_path / 'annotations/lvis.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        LVISPromptDataset(**source, pipeline=PIPELINE)


def test_missing_image_is_an_error(tmp_path):
    source = write(tmp_path, make_content())
    (tmp_path / 'val2017/000000000009.jpg').unlink()
    with pytest.raises(InputError, match='val2017/000000000009.jpg: no such file'):
        LVISPromptDataset(**source, pipeline=PIPELINE)


# Configs ---------------------------------------------------------------------------------------------------


def depth(path: Path) -> int:
    return max((1 + depth(path.parent / base) for base in Config._get_base_files(str(path))), default=0)


def test_recipes_exist_for_each_size_and_split():
    names = {f'dino-r1_swin-{size}_zero-shot_lvis{split}' for size in 'tbl' for split in ('', '-minival')}
    assert {path.stem for path in RECIPES} == names


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_recipe_evaluates_the_split_in_its_name(path, tmp_path, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    cfg = load_config(str(path))
    assert depth(path) <= 2
    size, split = path.stem.split('_')[1], path.stem.split('_')[-1]
    backbone = Config.fromfile(ROOT / f'configs/_base_/models/dino_r1_{size}.py').model.backbone
    assert cfg.model.backbone == backbone
    assert ('minival' in cfg.test_dataloader.dataset.ann_file) == (split == 'lvis-minival')
    assert cfg.val_dataloader == cfg.test_dataloader
    assert cfg.val_evaluator == cfg.test_evaluator
    assert cfg.prompt_dataset.ann_file == 'annotations/lvis_v1_train.json'

    for dataset in (cfg.test_dataloader.dataset, cfg.prompt_dataset):
        write(tmp_path / 'coco', make_content(), dataset.ann_file)
    loader = cfg.test_dataloader | dict(num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(loader, seed=0)
    assert isinstance(loader.dataset, LVISPromptDataset)
    assert loader.dataset.test_mode
    metric = METRICS.build(cfg.test_evaluator)
    assert isinstance(metric, LVISFixedMetric)
    # Otherwise fixed AP would be limited to 300 detections per image.
    assert cfg.model.test_cfg.max_per_img > metric.max_per_image == 300
    metric.dataset_meta = loader.dataset.metainfo
    ids = [sample.img_id for batch in loader for sample in batch['data_samples']]
    assert ids == [7, 9]
    for sample in perfect(make_content()):
        metric.process(None, [sample])
    metrics = metric.evaluate(2)
    assert metrics['lvis/fixed_AP'] == metrics['lvis/AP'] == pytest.approx(1.0, abs=1e-12)
    protocol = build_protocol(cfg.test_cfg.prompts, cfg)
    assert isinstance(protocol, VisualGeneric)
    assert isinstance(protocol.dataset, LVISPromptDataset)


def test_lvis_recipes_have_no_training():
    for path in RECIPES:
        cfg = load_config(str(path))
        assert not {'train_cfg', 'optim_wrapper', 'param_scheduler'} & set(cfg)
        assert cfg.test_cfg.type == 'PromptedTestLoop'
        assert cfg.val_cfg.type == 'PromptedValLoop'
