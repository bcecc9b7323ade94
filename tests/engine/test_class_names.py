"""Class names that a language model cannot read end a run before its first iteration."""

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
    """As much of a data set as the check reads."""

    def __init__(self, *classes, ann_file='train.json'):
        self.metainfo, self.ann_file = dict(classes=classes), ann_file


class Wrapper:
    def __init__(self, *datasets):
        self.datasets = datasets


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('(grocery package)', 'is nothing but brackets, which are left out'),
        ('--- !?', 'is nothing but punctuation'),
        ('_', 'is nothing but brackets'),
        (' ', 'is empty'),
    ],
)
def test_names_without_a_word(build_tiny, name, reason):
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
def test_names_that_can_be_read(build_tiny, name):
    assert why_unreadable(name) is None
    check_class_names(build_tiny(**ALIGNED), Set(name))


def test_names_are_tokenised():
    try:
        minilm_folder()
    except InputError as error:
        pytest.skip(str(error))
    minilm = MiniLM(max_tokens=8)
    assert why_unreadable('cat', minilm) is None
    assert why_unreadable('\U00020000', minilm) == 'has no part that the language model knows'
    assert why_unreadable('a cat on a mat by a hat', minilm) == 'needs 10 tokens, the language model takes 8'


@pytest.mark.parametrize('aligned', [False, True])
def test_a_training_with_names_checks_them_first(train, tiny_run_config, aligned):
    dataset = tiny_run_config.train_dataloader.dataset.to_dict() | dict(return_classes=True)
    # The names of the shapes world can be read: rename one in a copy of its file.
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
    with pytest.raises(InputError, match=r"renamed.json: the class '\(circle\)' is nothing but brackets"):
        train('aligned', **overrides, **{'model.prompts': dict(_delete_=True, **text)})
