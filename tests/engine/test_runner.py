"""The Runner converts the model it builds, and registers the hooks of the converters."""

import pytest
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from dinor1.engine.runner import Runner
from dinor1.registry import MODEL_CONVERTERS, RUNNERS
from dinor1.utils.errors import InputError
from dinor1.utils.model_converters import ModelConverter


class Toy(BaseModel):
    """Model with one layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.layer(inputs).square().mean())


class Mark(Hook):
    """Hook of the converter below."""


class Widen(ModelConverter):
    """Replaces the layer, and stores the seed."""

    def convert(self, model, seed):
        model.layer, model.seed = nn.Linear(2, 5), seed
        return model

    def hooks(self):
        return [Mark()]


@pytest.fixture(autouse=True)
def _widen():
    MODEL_CONVERTERS.register_module(module=Widen)
    yield
    MODEL_CONVERTERS.module_dict.pop('Widen')


@pytest.fixture
def make(tmp_path):
    def build(name, **arguments):
        common = dict(default_scope='dinor1', log_level='ERROR', experiment_name=f'{tmp_path.name}-{name}')
        return Runner(Toy(), str(tmp_path / name), **common, **arguments)

    return build


def test_runner_without_converters_does_not_change_model(make):
    runner = make('plain')
    assert runner.model_converters == []
    assert runner.model.layer.out_features == 2
    assert RUNNERS.get('DINOR1Runner') is Runner


def test_runner_converts_model_with_seed_of_run(make):
    runner = make('wide', cfg=dict(model_converters=[dict(type='Widen')]), randomness=dict(seed=11))
    assert runner.model.layer.out_features == 5
    assert runner.model.seed == 11
    assert [type(converter) for converter in runner.model_converters] == [Widen]
    assert sum(isinstance(hook, Mark) for hook in runner.hooks) == 1


def test_runner_unknown_converter_is_one_line_error(make):
    with pytest.raises(InputError, match="there is no model converter 'Wide'; did you mean 'Widen'"):
        make('wrong', cfg=dict(model_converters=[dict(type='Wide')]))


def test_runner_default_hook_none_removes_it(make):
    """MMEngine removes only its own hooks, and fails on others."""
    built = make('none', default_hooks=dict(logger=None, timer=dict(type='IterTimerHook'), reference=None))
    kinds = {type(hook).__name__ for hook in built.hooks}
    assert 'IterTimerHook' in kinds
    assert not kinds & {'LoggerHook', 'ReferenceModelHook'}
