"""ODinW: the manifest compared with MMDetection's configs and real data; finding and preparing files."""

import json
from pathlib import Path

import pytest

from dinor1.evaluation.odinw.benchmark import choose_sets, find_sets, load_sets, members, prepare_annotations
from dinor1.utils.errors import InputError

SMALL_MEMBERS = dict(
    raccoon='Raccoon',
    aquarium='Aquarium',
    na_mushrooms='NorthAmericaMushrooms',
    thermal_dogs_and_people='thermalDogsAndPeople',
    chess_pieces='ChessPieces',
    bccd='BCCD',
    coco_mini=None,
)


def coco(names, images=2, boxes=3, first_id=1):
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=64, height=48) for i in range(images)],
        annotations=[dict(id=i, image_id=0, category_id=first_id, bbox=[1, 2, 3, 4]) for i in range(boxes)],
        categories=[dict(id=first_id + i, name=name, supercategory='all') for i, name in enumerate(names)],
    )


def write_set(root: Path, s, splits=('train', 'test'), names=None, **counts) -> None:
    for split in splits:
        path = s.ann_path(root, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco(names or s.categories, **counts)))


# The manifest ----------------------------------------------------------------------------------------------


def test_benchmarks_have_their_members():
    sets = load_sets()
    assert len(sets) == 35 == len(members('ODinW-35'))
    assert tuple(sets) == members('ODinW-35')
    # GLIP, arXiv 2112.03857, Table 9.
    assert set(members('ODinW-13')) == {
        'PascalVOC',
        'AerialMaritimeDrone_large',
        'Aquarium',
        'CottontailRabbits',
        'EgoHands_generic',
        'NorthAmericaMushrooms',
        'Packages',
        'Raccoon',
        'ShellfishOpenImages',
        'VehiclesOpenImages',
        'pistols',
        'pothole',
        'thermalDogsAndPeople',
    }
    assert len(members('ODinW-13')) == 13
    with pytest.raises(InputError, match="'ODinW-12' is not a benchmark; choose ODinW-13 or ODinW-35"):
        members('ODinW-12')


@pytest.mark.parametrize('s', load_sets().values(), ids=lambda s: s.name)
def test_manifest_entry_is_complete(s):
    assert s.member == s.name
    assert s.deviation is None
    assert s.categories
    assert len(set(s.categories)) == len(s.categories)
    # A text prompt needs a name.
    assert all(name.strip() for name in s.categories)
    assert s.file_categories is None or len(s.file_categories) == len(s.categories)
    assert set(s.caption_prompts) <= set(s.categories)
    assert {'train', 'val'} <= set(s.splits) <= {'train', 'val', 'test', 'minival'}
    assert s.evaluate == s.split_for('test') == ('val' if s.name == 'PascalVOC' else 'test')
    assert s.split_for('val') == 'val'
    for split in s.splits.values():
        assert all(count is None or count > 0 for count in (split.images, split.boxes))
        assert split.ann_file.endswith('annotations_without_background.json')


def test_manifest_entries_share_no_file():
    sets = load_sets()
    paths = [s.ann_path('', split) for s in sets.values() for split in s.splits]
    assert len(set(paths)) == len(paths)
    assert len({s.root for s in sets.values()}) == 35


def test_manifest_sizes_equal_those_of_glip():
    """Table 9 of GLIP: images of train / val / test."""
    sets = load_sets()
    stated = dict(PascalVOC=(13690, 3422), Packages=(19, 4, 3), EgoHands_generic=(3840, 480, 480))
    for name, expected in stated.items():
        order = [split for split in ('train', 'val', 'test') if split in sets[name].splits]
        assert tuple(sets[name].splits[split].images for split in order) == expected
    known = [s for s in sets.values() if s.splits['train'].images is not None]
    assert {s.name for s in known} == {*members('ODinW-13'), 'ChessPieces'}


def test_manifest_names_and_files_equal_those_of_mmdetection():
    """Read the config files of MMDetection, which evaluate the split val, independently."""
    mmdet = pytest.importorskip('mmdet')
    from mmengine.config import Config

    path = (
        Path(mmdet.__file__).parent / '.mim/configs/mm_grounding_dino/odinw/grounding_dino_swin-t_pretrain_odinw35.py'
    )
    if not path.is_file():
        pytest.skip('this MMDetection came without its configs')
    theirs = Config.fromfile(path)
    names = [name.replace('Raccoons', 'Raccoon') for name in theirs.val_evaluator.dataset_prefixes]
    sets = load_sets()
    assert names == list(sets)
    for name, dataset in zip(names, theirs.val_dataloader.dataset.datasets, strict=True):
        split = sets[name].splits['val']
        # A script of MMDetection writes three files, and renames categories as prepare_annotations does.
        ann_file = dataset.ann_file.replace('new_annotations', 'annotations')
        assert Path('data/odinw', sets[name].root, split.ann_file) == Path(dataset.data_root, ann_file)
        assert Path('data/odinw', sets[name].root, split.img_dir) == Path(dataset.data_root, dataset.data_prefix.img)
        # MMDetection's config has two spaces instead of bishop.
        classes = tuple('bishop' if not c.strip() else c for c in dataset.metainfo.classes)
        assert sets[name].categories == classes
        # MMDetection uses GLIP's sentences, except for Aquarium.
        phrases = dataset.get('caption_prompt', {}).items()
        phrases = {c: p.get('prefix', '') + p.get('name', c) + p.get('suffix', '') for c, p in phrases}
        assert sets[name].caption_prompts == phrases or name == 'Aquarium'


def test_small_layout_has_names_of_its_members():
    small, official = load_sets('small'), load_sets()
    assert {name: s.member for name, s in small.items()} == SMALL_MEMBERS
    for s in small.values():
        assert s.deviation
        assert s.split_for('test') == 'test'
        assert s.categories == (official[s.member].categories if s.member else None)
    with pytest.raises(InputError, match="layout 'big': choose odinw or small"):
        load_sets('big')


@pytest.mark.shared
@pytest.mark.parametrize('name', SMALL_MEMBERS)
def test_small_files_agree_with_manifest(name, shared_dir, tmp_path):
    s = load_sets('small')[name]
    for split in ('train', 'val', 'test'):
        prepared = prepare_annotations(s, shared_dir / 'data', split, tmp_path / 'copy.json')
        assert not prepared.warning
        assert prepared.path == s.ann_path(shared_dir / 'data', split)
        assert (prepared.images, prepared.boxes) == (s.splits[split].images, s.splits[split].boxes)


# Choosing and finding --------------------------------------------------------------------------------------


def test_choose_sets_by_name_or_benchmark():
    official, small = load_sets(), load_sets('small')
    assert choose_sets(small, None) == small
    assert list(choose_sets(small, ['coco_mini', 'raccoon'])) == ['raccoon', 'coco_mini']
    assert list(choose_sets(small, ['ODinW-13'])) == ['raccoon', 'aquarium', 'na_mushrooms', 'thermal_dogs_and_people']
    assert 'coco_mini' not in choose_sets(small, ['ODinW-35'])
    assert tuple(choose_sets(official, ['ODinW-13'])) == members('ODinW-13')
    with pytest.raises(InputError, match="no set is named 'racoon'; did you mean raccoon"):
        choose_sets(small, ['racoon'])
    with pytest.raises(InputError, match="no set is named '#'; choose among AerialMaritimeDrone_large, "):
        choose_sets(official, ['#'])


def test_find_sets_names_missing_files(tmp_path):
    # PascalVOC has no test split in ODinW and is evaluated on val; the training split of Packages is missing.
    sets = load_sets()
    write_set(tmp_path, sets['Aquarium'])
    write_set(tmp_path, sets['PascalVOC'], splits=['train', 'val'])
    write_set(tmp_path, sets['Packages'], splits=['test'])
    chosen = choose_sets(sets, ['Aquarium', 'PascalVOC', 'Packages', 'dice'])

    present, missing = find_sets(chosen, tmp_path, 'test', with_train=True)
    assert list(present) == ['Aquarium', 'PascalVOC']
    assert missing == {
        'dice': f'{tmp_path}/dice/mediumColor/export/test_annotations_without_background.json',
        'Packages': f'{tmp_path}/Packages/Raw/train/annotations_without_background.json',
    }
    assert 'Packages' in find_sets(chosen, tmp_path, 'test', with_train=False)[0]
    assert list(find_sets(chosen, tmp_path, 'val', with_train=True)[0]) == ['PascalVOC']
    with pytest.raises(InputError, match='none of 4 sets is here, for example .*annotations_without_background.json'):
        find_sets(chosen, tmp_path / 'elsewhere', 'test', with_train=True)


# Preparing annotation files --------------------------------------------------------------------------------


def test_prepare_annotations_uses_file_with_offered_names(tmp_path):
    s = load_sets()['Aquarium']
    write_set(tmp_path, s, images=63)
    prepared = prepare_annotations(s, tmp_path, 'test', tmp_path / 'copy.json')
    assert prepared.path == s.ann_path(tmp_path, 'test')
    assert not (tmp_path / 'copy.json').exists()
    assert (prepared.images, prepared.boxes, prepared.names) == (63, 3, s.categories)
    assert prepared.warning == ''


def test_prepare_annotations_renames_categories_in_a_copy(tmp_path):
    s = load_sets()['NorthAmericaMushrooms']
    # Categories are not in the order of their ids, which begin at 5: only names change, by id.
    write_set(tmp_path, s, names=s.file_categories, first_id=5)
    path = s.ann_path(tmp_path, 'test')
    before = json.loads(path.read_text())
    before['categories'].reverse()
    path.write_text(json.dumps(before))

    prepared = prepare_annotations(s, tmp_path, 'test', tmp_path / 'new/copy.json')
    assert prepared.path == tmp_path / 'new/copy.json'
    assert prepared.names == ('flat mushroom', 'yellow mushroom')
    after = json.loads(prepared.path.read_text())
    assert {c['id']: c['name'] for c in after['categories']} == {5: 'flat mushroom', 6: 'yellow mushroom'}
    assert {c['supercategory'] for c in after['categories']} == {'all'}
    assert after['images'] == before['images']
    assert after['annotations'] == before['annotations']
    assert json.loads(path.read_text()) == before


def test_prepare_annotations_with_captions_replaces_names(tmp_path):
    s = load_sets()['Aquarium']
    write_set(tmp_path, s)
    prepared = prepare_annotations(s, tmp_path, 'test', tmp_path / 'copy.json', captions=True)
    assert prepared.names[:4] == ('fish', 'jellyfish', 'penguin, which is black and white', 'puffin with orange beaks')
    assert [c['name'] for c in json.loads(prepared.path.read_text())['categories']] == list(prepared.names)


def test_prepare_annotations_warns_about_different_counts(tmp_path):
    sets = load_sets()
    write_set(tmp_path, sets['NorthAmericaMushrooms'])
    prepared = prepare_annotations(sets['NorthAmericaMushrooms'], tmp_path, 'test', tmp_path / 'copy.json')
    assert prepared.warning == 'NorthAmericaMushrooms test: 2 images instead of 5, 3 boxes instead of 9 in the manifest'
    # A count that is not in the manifest gives no warning.
    write_set(tmp_path, sets['BCCD'])
    assert prepare_annotations(sets['BCCD'], tmp_path, 'test', tmp_path / 'copy.json').warning == ''


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not valid JSON at line 1'),
        ('[]', "it has no lists 'images' and 'annotations'"),
        (json.dumps(coco(['raccoon']) | {'categories': [{'id': 1}]}), "its 'categories' have no id and name"),
        (json.dumps(coco(['raccoon', 'cat'])), "not those of Raccoon in the manifest, it has ['cat'] and lacks []"),
        (json.dumps(coco(['cat'])), "it has ['cat'] and lacks ['raccoon']; give the released file"),
    ],
)
def test_prepare_annotations_rejects_other_files(tmp_path, content, message):
    s = load_sets()['Raccoon']
    write_set(tmp_path, s)
    s.ann_path(tmp_path, 'test').write_text(content)
    with pytest.raises(InputError) as caught:
        prepare_annotations(s, tmp_path, 'test', tmp_path / 'copy.json')
    assert str(caught.value).startswith(str(s.ann_path(tmp_path, 'test')))
    assert message in str(caught.value)
    assert not (tmp_path / 'copy.json').exists()


def test_prepare_annotations_rejects_other_order_of_categories(tmp_path):
    s = load_sets()['EgoHands_specific']
    write_set(tmp_path, s, names=s.categories[::-1])
    with pytest.raises(InputError, match='their ids are in another order'):
        prepare_annotations(s, tmp_path, 'test', tmp_path / 'copy.json')
