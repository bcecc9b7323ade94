"""Configs of federated photographs: their training sets, and sets that they must not train on."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from dinor1.datasets import CocoPromptDataset, SourceBatchSampler
from dinor1.engine.run_checks import check_training
from dinor1.registry import DATASETS
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError

ROOT = Path(__file__).parents[2]
NAMES = ('photo_mix', 'photo_mix_novel', 'photographs')
# Reserved for zero-shot evaluation: released weights must not be trained on them, not even as exemplars.
ZERO_SHOT = (
    *('raccoon', 'aquarium', 'chess_pieces', 'bccd', 'na_mushrooms', 'thermal_dogs_and_people'),
    *('bee_varroa', 'thermal_cheetah', 'chrome_dino', 'wind_turbine_blades', 'waste_items', 'hbn_flakes'),
    *('gauge_parts', 'building_facade'),
)
BASE, NOVEL = ('bottle', 'chair'), ('sink', 'apple', 'banana')


def load(name: str) -> Config:
    return Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')


def training_sets(cfg: Config) -> list:
    dataset = cfg.train_dataloader.dataset
    return list(dataset.get('datasets', [dataset]))


def strings(value) -> list[str]:
    """All strings of a config, without keys."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


def write_set(root: Path, files: list[str], sources: bool) -> None:
    """A set of three images: two of base categories, one of them a grocery, and one of a novel category.

    With ``sources`` there is a fourth, of a third source.
    """
    categories = [dict(id=i, name=name) for i, name in enumerate((*BASE, *NOVEL), 1)]
    names = ('coco2017', 'freiburg_groceries', 'coco2017', 'fod_a')
    images = [dict(id=i, file_name=f'{i}.jpg', width=60, height=40) for i in range(4 if sources else 3)]
    if sources:
        images = [image | dict(source=source) for image, source in zip(images, names, strict=True)]
    shown = (1, 2, 3, 2)[: len(images)]
    boxes = [dict(id=i, image_id=i, category_id=id, bbox=[5, 5, 20, 20], area=400) for i, id in enumerate(shown)]
    data = dict(images=images, annotations=boxes, categories=categories)
    if sources:
        data['sources'] = [
            dict(name='coco2017', exhaustive_category_ids=[1, 3, 4, 5]),
            dict(name='freiburg_groceries', exhaustive_category_ids=[2]),
            dict(name='fod_a', exhaustive_category_ids=[2]),
        ]
    # Write annotation files and images.
    for folder in ('images', 'annotations'):
        (root / folder).mkdir(parents=True)
    for name in files:
        (root / f'annotations/{name}.json').write_text(json.dumps(data))
    for i in range(len(images)):
        cv2.imwrite(str(root / f'images/{i}.jpg'), np.zeros((40, 60, 3), np.uint8))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Small replacements of all sets that the configs read."""
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    for one in training_sets(load('photographs')):
        root = Path(one.data_root)
        if root.name == 'photo_mix':
            write_set(root, ['train', 'val', 'test'], sources=True)
            lines = [f'{i}\t{name}\t7' for i, name in enumerate(NOVEL)]
            (root / 'annotations/novel_categories.txt').write_text('# novel\n' + '\n'.join(lines))
        else:
            write_set(root, ['train'], sources=False)
    return tmp_path


@pytest.mark.parametrize('name', NAMES)
def test_data_root_follows_environment_variable(name, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', '/elsewhere')
    cfg = load(name)
    evaluated = [cfg.val_dataloader.dataset, cfg.test_dataloader.dataset, cfg.prompt_dataset]
    assert all(one.data_root.startswith('/elsewhere/') for one in [*training_sets(cfg), *evaluated])
    for split in ('val', 'test'):
        assert cfg[f'{split}_evaluator'].ann_file == f'/elsewhere/photo_mix/annotations/{split}.json'


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/dino_r1').glob('*_photo*.py')), ids=lambda path: path.stem)
def test_photograph_recipes_do_not_train_on_zero_shot_domains(path):
    cfg = load_config(str(path))
    found = [text for text in strings(cfg.to_dict()) for name in ZERO_SHOT if name in text]
    assert not found


@pytest.mark.parametrize('name', NAMES)
def test_data_set_configs_do_not_train_on_zero_shot_domains(name):
    found = [text for text in strings(load(name).to_dict()) for domain in ZERO_SHOT if domain in text]
    assert not found


def test_zero_shot_domains_are_not_in_rfmix_training():
    assert len(set(load('photographs').rfmix)) == 22
    assert not set(load('photographs').rfmix) & set(ZERO_SHOT)


@pytest.mark.parametrize('name', NAMES)
def test_training_set_is_federated_without_novel_categories(name, data):
    cfg = load(name)
    loader = cfg.train_dataloader | dict(num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(loader, seed=0)
    assert isinstance(loader.batch_sampler, SourceBatchSampler)
    samples = [sample for batch in loader for sample in batch['data_samples']]
    # The third image of each set shows a sink.
    with_sink = [one for one in training_sets(cfg) if one.exclude_categories in ((), ['apple', 'banana'])]
    # The first set, photo_mix, has a fourth image; only photographs leaves out two sources, each with one image.
    others = -1 if name == 'photographs' else 1
    assert len(samples) == 2 * len(training_sets(cfg)) + len(with_sink) + others
    mixed = [sample for sample in samples if '/photo_mix/' in sample.img_path]
    assert {sample.text for sample in mixed} == {BASE}
    # The image of the bottle was annotated for bottles; that of the grocery has no negatives.
    scopes = {sample.img_id: (sample.annotated_labels, sample.exhaustive_labels) for sample in mixed}
    every = {0: ([0], [0]), 1: ([1], []), 3: ([1], [1])}
    assert scopes == ({0: every[0]} if name == 'photographs' else every)
    for sample in samples:
        shown = {sample.text[label] for label in sample.gt_instances.labels}
        if 'coco_mini' in sample.img_path:
            assert not shown & set(NOVEL)


def test_sources_are_left_out_in_training_only(data, tmp_path):
    arguments = dict(
        data_root=str(tmp_path / 'photo_mix'),
        ann_file='annotations/train.json',
        data_prefix=dict(img='images'),
        pipeline=[],
    )

    def sources(**options):
        dataset = CocoPromptDataset(**arguments, federated=True, **options)
        return [dataset.get_data_info(i)['source'].split(':')[-1] for i in range(len(dataset))]

    every_source = ['coco2017', 'freiburg_groceries', 'coco2017', 'fod_a']
    assert sources() == every_source
    assert sources(exclude_sources=['freiburg_groceries', 'fod_a']) == ['coco2017', 'coco2017']
    assert sources(exclude_sources=['freiburg_groceries'], test_mode=True) == every_source
    with pytest.raises(
        InputError, match="no image has the source 'fod': the sources are coco2017, fod_a, freiburg_groceries"
    ):
        sources(exclude_sources=['fod'])
    with pytest.raises(InputError, match='exclude_sources leaves no image'):
        sources(exclude_sources=['coco2017', 'freiburg_groceries', 'fod_a'])


def test_novel_evaluation_uses_the_support_set(data):
    base, novel = load('photo_mix'), load('photo_mix_novel')
    for split in ('val_dataloader', 'test_dataloader'):
        assert DATASETS.build(base[split].dataset).metainfo['classes'] == BASE
        assert DATASETS.build(novel[split].dataset).metainfo['classes'] == NOVEL
    assert DATASETS.build(base.prompt_dataset).metainfo['classes'] == BASE
    support = DATASETS.build(novel.prompt_dataset)
    assert support.metainfo['classes'] == NOVEL
    assert [bool(support.get_data_info(i)['instances']) for i in range(4)] == [False, False, True, False]
    # The training set does not change.
    assert novel.train_dataloader == base.train_dataloader


def test_photograph_recipe_passes_run_checks():
    check_training(load_config(str(ROOT / 'configs/dino_r1/dino-r1_lite_1xb16_5e_photo-mix.py')), 'recipe')


# Real data --------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_sets_have_documented_sizes(shared_dir, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', str(shared_dir / 'data'))
    cfg = load('photographs')
    sets = [DATASETS.build(one) for one in training_sets(cfg)]
    assert len(sets[0].metainfo['classes']) == 130
    assert (len(sets[0]), sum(map(len, sets))) == (740, 1749)
    # The two sources without a licence have 1,114 images.
    whole = DATASETS.build(training_sets(cfg)[0] | dict(exclude_sources=()))
    assert len(whole) == 1854
    novel = load('photo_mix_novel')
    support = DATASETS.build(novel.prompt_dataset | dict(test_mode=False))
    assert len(support) == 722
    names = set(support.metainfo['classes'])
    assert len(names) == 32
    # No training set shows a novel category under its name.
    assert not any(names & set(one.metainfo['classes']) for one in sets)


@pytest.mark.shared
def test_grocery_images_have_no_negatives(shared_dir, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', str(shared_dir / 'data'))
    dataset = DATASETS.build(load('photo_mix').train_dataloader.dataset)
    counts = {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        counts.setdefault(info['source'].split(':')[-1], set()).add(len(info['exhaustive_labels']))
    assert counts.pop('freiburg_groceries') == {0}
    # A COCO category with a crowd is not exhaustive.
    assert counts.pop('coco2017') == {64, 65, 66}
    assert counts == dict(animals7={5}, fod_a={25}, kitchen_hmi2={7}, openimages={4}, tools_lab={9})
