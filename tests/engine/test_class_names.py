"""Class names that a language model cannot read are rejected before the first iteration."""

import json
from pathlib import Path

import pytest

from dinor1.engine.class_names import check_class_names
from dinor1.models.prompts import MiniLM, encode_text, minilm_folder, why_unreadable
from dinor1.utils.errors import InputError

ALIGNED = {
    'model.prompts.language_model': dict(type='WordHashModel'),
    'model.prompts.alignment': dict(type='LanguageAlignment'),
    'model.prompts.text_prompts': 'class',
}


class Set:
    """Stub of a data set, with the attributes that the check reads."""

    def __init__(self, *classes, ann_file='train.json'):
        self.metainfo, self.ann_file = dict(classes=classes), ann_file


class Wrapper:
    def __init__(self, *datasets):
        self.datasets = datasets


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('(grocery package)', 'is only brackets, which are left out'),
        ('--- !?', 'is only punctuation'),
        ('_', 'is only brackets'),
        (' ', 'is empty'),
    ],
)
def test_class_name_without_word_is_rejected(build_tiny, name, reason):
    assert why_unreadable(name).startswith(reason)
    model = build_tiny(**ALIGNED)
    dataset = Wrapper(Set('cup'), Wrapper(Set('jar', name, ann_file='shelf.json')))
    with pytest.raises(InputError, match='shelf.json: the class .* leave it out by exclude_categories'):
        check_class_names(model, dataset)
    if name.strip():
        with pytest.raises(InputError, match='text prompts: .*; name the class'):
            encode_text(['cup', name], model.language_model, model.text_feat_map)
    # Without a language model, a name is only a label.
    check_class_names(build_tiny(), dataset)


@pytest.mark.parametrize('name', ['7', 'T-shirt', 'Müsli (grocery package)', '猫', 'traffic_light'])
def test_class_name_that_can_be_read_is_accepted(build_tiny, name):
    assert why_unreadable(name) is None
    check_class_names(build_tiny(**ALIGNED), Set(name))


def test_why_unreadable_counts_tokens():
    try:
        minilm_folder()
    except InputError as error:
        pytest.skip(str(error))
    minilm = MiniLM(max_tokens=8)
    assert why_unreadable('cat', minilm) is None
    assert why_unreadable('\U00020000', minilm) == 'has no part that the language model knows'
    assert why_unreadable('a cat on a mat by a hat', minilm) == 'needs 10 tokens, the language model takes 8'


@pytest.mark.parametrize('aligned', [False, True])
def test_training_checks_class_names_before_first_iteration(train, tiny_run_config, aligned):
    dataset = tiny_run_config.train_dataloader.dataset.to_dict() | dict(return_classes=True)
    # Rename a category of the shapes world to an unreadable name, in a copy of its file.
    source = Path(dataset['data_root']) / dataset['ann_file']
    data = json.loads(source.read_text())
    data['categories'][0]['name'] = '(circle)'
    source.with_name('renamed.json').write_text(json.dumps(data))
    overrides = {
        'train_dataloader.dataset': dataset | dict(ann_file='annotations/renamed.json'),
        'train_cfg.max_epochs': 1,
    }
    if not aligned:
        assert len(train('plain', **overrides)[1].history) == 6
        return
    text = {name.removeprefix('model.prompts.'): value for name, value in ALIGNED.items()}
    with pytest.raises(InputError, match=r"renamed.json: the class '\(circle\)' is only brackets"):
        train('aligned', **overrides, **{'model.prompts': dict(_delete_=True, **text)})
