"""convert_model: order, seed, and one-line errors."""

import pytest
from torch import nn

from dinor1.registry import MODEL_CONVERTERS
from dinor1.utils.errors import InputError
from dinor1.utils.model_converters import ModelConverter, convert_model


class Append(ModelConverter):
    """Appends a layer whose size is the seed."""

    def __init__(self, factor=1):
        self.factor = factor

    def convert(self, model, seed):
        return nn.Sequential(*model, nn.Linear(1, self.factor * seed))


@pytest.fixture(autouse=True)
def _append():
    MODEL_CONVERTERS.register_module(module=Append)
    yield
    MODEL_CONVERTERS.module_dict.pop('Append')


@pytest.mark.parametrize('converters', [None, [], ()])
def test_convert_model_without_converters(converters):
    model = nn.Sequential()
    assert convert_model(model, converters) == (model, [])


def test_convert_model_applies_converters_in_order():
    settings = [dict(type='Append', factor=2), dict(type='Append')]
    model, applied = convert_model(nn.Sequential(), settings, seed=3)
    assert [layer.out_features for layer in model] == [6, 3]
    assert [converter.factor for converter in applied] == [2, 1]
    assert applied[0].hooks() == []
    assert settings == [dict(type='Append', factor=2), dict(type='Append')]


@pytest.mark.parametrize(
    ('converters', 'message'),
    [
        ([dict(type='IntegerTrainin')], r"model_converters\[0\]: .* 'IntegerTrainin'; did you mean 'IntegerTraining'"),
        ([dict(type='Append'), dict(type='appendd')], r"model_converters\[1\]: .* did you mean 'Append'"),
        ([dict(bits=(4, 4, 4))], r'model_converters\[0\] must be a dict with a type'),
        (['Append'], 'must be a dict with a type'),
        (dict(type='Append'), 'model_converters must be a list of dicts'),
        ('Append', 'must be a list of dicts'),
        (3, 'must be a list of dicts'),
    ],
)
def test_convert_model_rejects_bad_settings(converters, message):
    with pytest.raises(InputError, match=message) as error:
        convert_model(nn.Sequential(), converters)
    assert '\n' not in str(error.value)
