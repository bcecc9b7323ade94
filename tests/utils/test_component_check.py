"""Check of component arguments: accepted values, and messages for mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from mmengine.config import Config, ConfigDict

from dinor1.blocks.lie.config import KernelConfig
from dinor1.utils.component_check import accepts, arguments, mistakes
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError


@pytest.mark.parametrize(
    ('annotation', 'good', 'bad'),
    [
        (int, [0, -3], [1.0, True, '1', None]),
        (float, [0, 1.5], [True, '1', None]),
        (bool, [True], [1, 'True']),
        (str, ['', 'a'], [1, None]),
        (int | None, [None, 3], ['3', 2.5]),
        (Literal['a', 'b'], ['a'], ['c', 1]),
        (dict, [{}, ConfigDict(a=1)], [None, [], 3]),
        (Mapping[str, Any] | None, [None, {}], [3]),
        (Sequence[int], [[], [1, 2], (3,)], [3, [1, 'a'], 'ab']),
        (Sequence[int] | None, [None, [1]], [3]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1, 2, 3), (1, 'a')]),
        (tuple[int, ...], [(), (1, 2, 3)], [('a',)]),
        (KernelConfig | Mapping[str, Any] | None, [{}, None, KernelConfig()], ['siren', 3]),
        (Any, [None, 3, 'a'], []),
    ],
)
def test_accepts(annotation, good, bad):
    assert [value for value in good if not accepts(annotation, value)] == []
    assert [value for value in bad if accepts(annotation, value)] == []


class Base:
    def __init__(self, inner: int) -> None: ...


class Child(Base):
    def __init__(self, outer: str, **kwargs: Any) -> None: ...


class Elsewhere(Base):
    def __init__(self, outer: str, **options: Any) -> None: ...


def test_arguments_include_base_classes():
    assert arguments(Child) == dict(outer=str, inner=int)
    assert arguments(Elsewhere) == {'outer': str, '**options': Any}
    assert arguments(object) == {}


def test_mistakes_finds_none_in_configs(repo):
    """The check accepts all configs of the repository."""
    configs = sorted((repo / 'configs').rglob('*.py'))
    assert len(configs) > 100
    found = [(path.name, mistake) for path in configs for mistake in mistakes(Config.fromfile(path)._cfg_dict)]
    assert found == []


RECIPE = 'configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'test_cfg.prompts.num_exemplar': 3},
            "--cfg-options test_cfg.prompts.num_exemplar: VisualGeneric takes no argument 'num_exemplar'; did you mean "
            "'num_exemplars'?",
        ),
        (
            {'test_cfg.prompts.type': 'TextPrompts', 'test_cfg.prompts.num_exemplars': 2},
            "test_cfg.prompts.num_exemplars: TextPrompts takes no argument 'num_exemplars'; it takes none",
        ),
        ({'test_cfg.prompts.num_exemplars': 1.5}, 'VisualGeneric needs an integer here, got 1.5'),
        ({'test_cfg.prompts.seed': 'abc'}, "VisualGeneric needs an integer here, got 'abc'"),
        ({'val_cfg.prompts': None}, 'PromptedValLoop needs a dict or a PromptProtocol here, got None'),
        ({'test_cfg.seeds': 3}, 'PromptedTestLoop needs a list or None here, got 3'),
        ({'test_cfg.type': 'TestLoop'}, "test_cfg.prompts: TestLoop takes no argument 'prompts'; it takes runner"),
        ({'val_cfg.query_recorder.min_io': 3}, "takes no argument 'min_io'; did you mean 'min_iou'?"),
        ({'model.bbox_head.loss_grqo.alpha': 'abc'}, "GRQOLoss needs a number here, got 'abc'"),
        ({'model.transformer.num_head': 2}, "'num_head'; did you mean 'num_heads'?"),
        ({'model.transformer.num_heads': 2.0}, 'TransformerDims needs an integer here, got 2.0'),
        ({'optim_wrapper.optimizer.type': 'AdamP'}, "optim_wrapper.optimizer.fused: AdamP takes no argument 'fused'"),
        (
            {'custom_hooks': [dict(type='IterTimerHook', intervl=1)]},
            'custom_hooks.0.intervl: IterTimerHook takes no argument',
        ),
    ],
)
def test_load_config_mistake_names_key_component_and_remedy(repo, options, message):
    with pytest.raises(InputError) as error:
        load_config(str(repo / RECIPE), options)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_load_config_mistake_in_file_names_the_file(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("test_cfg = dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive', sed=1))\n")
    with pytest.raises(InputError) as error:
        load_config(str(path))
    told = f"{path}: test_cfg.prompts.sed: VisualInteractive takes no argument 'sed'; did you mean 'seed'?"
    assert str(error.value) == told


def test_load_config_accepts_arguments_that_mmengine_reads(repo):
    options = {'custom_hooks': [dict(type='EMAHook', momentum=0.1, priority=49)]}
    assert load_config(str(repo / RECIPE), options).custom_hooks[0].priority == 49
