"""load_config: overrides, and messages for misspelt and old keys."""

import argparse

import pytest
from mmengine.config import DictAction

from dinor1.cli.options import ConfigOptions
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError

TEXT = """
scale = 3
model = dict(type='X', num_queries=scale, backbone=dict(type='ResNet', num_stages=4))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
param_scheduler = [dict(type='OneCycleLR', eta_max=1.0)]
val_evaluator = dict(type='CocoMetric')
load_from = None
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(TEXT)
    return str(file)


def test_load_config_without_override(path):
    cfg = load_config(path)
    assert cfg.model.num_queries == cfg.scale == 3
    assert load_config(path, {}).to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('model.num_queries', 7),
        ('optim_wrapper.optimizer.lr', 0.2),
        ('param_scheduler.0.eta_max', 2.0),
        ('load_from', 'x.pth'),
        # Arguments that the config leaves at their default; some names are similar to keys of the config.
        ('optim_wrapper.optimizer.betas', (0.9, 0.99)),
        ('model.backbone.frozen_stages', 1),
        ('model.backbone.init_cfg.type', 'Pretrained'),
        # Known keys that this config does not have.
        ('test_evaluator', dict(type='CocoMetric')),
        ('randomness.seed', 1),
    ],
)
def test_load_config_override(path, key, value):
    node = load_config(path, {key: value})
    for part in key.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == value


def test_load_config_override_may_resemble_a_key(path):
    """``dtype`` is an argument of the hook, and similar to the key ``type``."""
    with open(path, 'a') as file:
        file.write("default_hooks = dict(reference=dict(type='ReferenceModelHook', warmup=1))\n")
    cfg = load_config(path, {'default_hooks.reference.dtype': 'bfloat16'})
    assert cfg.default_hooks.reference.dtype == 'bfloat16'
    with pytest.raises(InputError, match="did you mean 'warmup'"):
        load_config(path, {'default_hooks.reference.warmp': 2})


def test_load_config_override_adds_argument_of_converter(path):
    with open(path, 'a') as file:
        file.write("model_converters = [dict(type='IntegerTraining', bits=(4, 4, 4))]\n")
    assert load_config(path, {'model_converters.0.norm': 'l1'}).model_converters[0].norm == 'l1'
    with pytest.raises(InputError, match="did you mean 'bits'"):
        load_config(path, {'model_converters.0.bit': 4})


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('modle.num_queries', "the config has no key 'modle'; did you mean 'model'?"),
        ('model.num_querys', "model has no key 'num_querys'; did you mean 'num_queries'?"),
        ('model.bakcbone.depth', "did you mean 'backbone'?"),
        ('optim_wrapper.optimiser.lr', "did you mean 'optimizer'?"),
        ('param_scheduler.1.eta_max', "is a list of 1; '1' is not in it"),
        ('param_scheduler.x.eta_max', "is a list of 1; 'x' is not in it"),
        ('param_scheduler.0.eta_mx', "did you mean 'eta_max'?"),
        ('model.num_queries.x', "model.num_queries is not a dict and has no key 'x'"),
        ('load_from.x', 'is not a dict'),
        ('quux', "the config has no key 'quux'; it has scale, model"),
    ],
)
def test_load_config_bad_override(path, key, message):
    with pytest.raises(InputError) as error:
        load_config(path, {key: 1})
    assert message in str(error.value)
    assert str(error.value).startswith(f'--cfg-options {key}: ')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'cannot be read as a config (SyntaxError'),
        ('model = undefined_name', "name 'undefined_name' is not defined"),
        ("_base_ = './absent.py'", 'absent.py'),
        (
            TEXT.replace('optim_wrapper', 'optim_wraper'),
            "unknown key 'optim_wraper'; did you mean 'optim_wrapper'?",
        ),
        (TEXT + 'defualt_hooks = dict()', "unknown key 'defualt_hooks'; did you mean 'default_hooks'?"),
        (TEXT + 'model_convertors = []', "unknown key 'model_convertors'; did you mean 'model_converters'?"),
    ],
)
def test_load_config_bad_file(tmp_path, text, message):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(str(path))
    assert message in str(error.value)
    assert str(error.value).startswith(f'{path}: ')
    assert '\n' not in str(error.value)


INTEGERS = "model_converters=[dict(type='IntegerTraining', ...)]"
GRQO = ("model.bbox_head.loss_grqo=dict(type='GRQOLoss', ", "default_hooks.reference=dict(type='ReferenceModelHook', ")
PROMPTS = ("val_cfg=dict(type='PromptedValLoop', prompts=dict(type='VisualGeneric', ", 'test_cfg=dict(')


@pytest.mark.parametrize(
    ('line', 'old', 'new'),
    [
        ('quantization = dict(bits=(4, 4, 4))', 'quantization', (INTEGERS,)),
        ('default_hooks = dict(grqo=dict(alpha=0.01))', 'default_hooks.grqo', GRQO),
        ("default_hooks = dict(grqo=dict(type='ReferenceModelHook', warmup=1))", 'default_hooks.grqo', GRQO),
        ("default_hooks = dict(prompts=dict(type='PromptProtocolHook'))", 'default_hooks.prompts', PROMPTS),
        ("default_hooks = dict(p=dict(type='PromptProtocolHook'))", "default_hooks.p of type 'PromptProtoc", PROMPTS),
        (
            "custom_hooks = [dict(type='X'), dict(type='IntegerTrainingHook', bits=(4, 4, 4))]",
            "custom_hooks[1] of type 'IntegerTrainingHook'",
            (INTEGERS,),
        ),
        ("model = dict(type='DINOR1', embed_dims=64)", 'model.embed_dims', ('model.transformer.embed_dims',)),
        ("model = dict(type='DINOR1', prompt_refiner=dict())", 'model.prompt_refiner', ('model.prompts.refiner',)),
        ("custom_hooks = [dict(type='QueryRecorderHook')]", 'custom_hooks[0] of', ('test_cfg.query_recorder',)),
        ("val_cfg = dict(prompts=dict(type='visual-generic'))", 'val_cfg.prompts.type=', ("'VisualGeneric'",)),
        ("test_cfg = dict(prompts=dict(type='text'))", 'test_cfg.prompts.type=', ("'TextPrompts'",)),
        (
            "model = dict(encoder=dict(type='PromptedEncoder', fusion_layer_cfg=dict(embed_dim=64)))",
            'model.encoder.fusion_layer_cfg',
            ('model.encoder.fusion',),
        ),
        (
            "model = dict(backbone=dict(type='AffineEquivariantBackbone', k=5))",
            'model.backbone.k',
            ('model.backbone.layers.k',),
        ),
        (
            "model = dict(backbone=dict(type='AffineEquivariantBackbone', kernel='spline'))",
            'model.backbone.kernel',
            ('model.backbone.kernel.kind',),
        ),
        (
            "train_dataloader = dict(dataset=dict(type='SBMDataset', task='cluster', graph_seed=1))",
            'train_dataloader.dataset.graph_seed',
            ('train_dataloader.dataset.graphs.seed',),
        ),
        (
            "default_hooks = dict(reference=dict(type='ReferenceModelHook', alpha=1))",
            'default_hooks.reference.alpha',
            ('model.bbox_head.loss_grqo.alpha',),
        ),
    ],
)
def test_load_config_old_key_names_new_key(path, line, old, new):
    with open(path, 'a') as file:
        file.write(f'{line}\n')
    with pytest.raises(InputError) as error:
        load_config(path)
    assert str(error.value).startswith(f'{path}: {old}')
    assert all(words in str(error.value) for words in new)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('key', 'new'),
    [
        ('quantization', INTEGERS),
        ('quantization.bits', 'model_converters.0.bits'),
        ('default_hooks.grqo', GRQO[0]),
        ('default_hooks.grqo.alpha', 'model.bbox_head.loss_grqo.alpha'),
        ('default_hooks.grqo.objective', 'model.bbox_head.loss_grqo.objective'),
        ('default_hooks.grqo.warmup', 'default_hooks.reference.warmup'),
        ('default_hooks.grqo.dtype', 'default_hooks.reference.dtype'),
        ('default_hooks.prompts', PROMPTS[0]),
        ('default_hooks.prompts.seed', 'test_cfg.prompts.seed, and val_cfg.prompts.seed'),
        ('default_hooks.prompts.prompt_dataset.ann_file', 'prompt_dataset.ann_file'),
        ('default_hooks.prompts.protocol', 'test_cfg.prompts.type, and val_cfg.prompts.type'),
    ],
)
def test_load_config_old_override_names_new_key(path, key, new):
    with pytest.raises(InputError) as error:
        load_config(path, {key: 1})
    assert str(error.value).startswith(f'--cfg-options {key}: this key belongs to an earlier version; give {new}')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('key', 'new'),
    [
        ('loss_grqo.alpha', 'model.bbox_head.loss_grqo.alpha'),
        ('prompts.type', 'test_cfg.prompts.type, and val_cfg'),
        ('shapes_checkpoint', 'load_from'),
    ],
)
def test_load_config_rejects_override_of_base_variable(path, key, new):
    with pytest.raises(InputError, match='has no effect once the config has been read') as error:
        load_config(path, {key: 1})
    assert f'give {new}' in str(error.value)


def test_load_config_old_argument_in_override_names_new_key(path):
    with open(path, 'a') as file:
        file.write("model = dict(encoder=dict(type='PromptedEncoder', num_layers=1))\n")
    with pytest.raises(InputError, match='earlier version; write model.encoder.fusion'):
        load_config(path, {'model.encoder.fusion_layer_cfg.embed_dim': 64})


def test_load_config_warns_of_swin_of_earlier_versions(path):
    with open(path, 'a') as file:
        file.write("model = dict(type='DINOR1', backbone=dict(type='SwinTransformer'))\n")
    with pytest.warns(UserWarning, match="is now called 'DenormalFreeSwin'"):
        load_config(path)


def test_load_config_missing_file(tmp_path):
    for path in (tmp_path / 'absent.py', tmp_path):
        with pytest.raises(InputError, match='no such config file'):
            load_config(str(path))


def test_load_config_accepts_free_variables(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(TEXT + "max_epochs = 3\nmodels = 'a free variable beside the key that it resembles'")
    assert load_config(str(path)).max_epochs == 3


def parse(*items):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    return parser.parse_args(['--cfg-options', *items]).cfg_options


def test_config_options_parse_dicts():
    said = parse("h=[dict(type='EMAHook', momentum=1e-4)]", 'x=3', "p={'type': 'A', 'b': dict(c=(1, 2))}")
    assert said == dict(h=[dict(type='EMAHook', momentum=1e-4)], x=3, p=dict(type='A', b=dict(c=(1, 2))))


def test_config_options_parse_values():
    assert parse('a.b=3', 'c=x=y', 'd=[1,2]', 'e=') == {'a.b': 3, 'c': 'x=y', 'd': [1, 2], 'e': ''}


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('my run', 'my run'),
        (' 5.0 ', 5.0),
        ('[a b, c]', ['a b', 'c']),
        ('[(1, 2), [x y]], None', [[(1, 2), ['x y']], None]),
        ('(1, 2),(3, 4)', [(1, 2), (3, 4)]),
        ('(64, )', (64,)),
        ('[]', []),
        ("'a folder/with blanks'", 'a folder/with blanks'),
        ('cat (', 'cat ('),
        ('true', True),
    ],
)
def test_config_options_keep_blanks(text, value):
    assert parse(f'k={text}') == dict(k=value)


def test_config_options_equal_mmengine_without_blanks():
    texts = [
        '1,2',
        '[(1,2),[a,b],c]',
        '1e-4',
        '-3',
        'None',
        'False',
        '[None,true]',
        '(a)',
        '[[]]',
        'a',
        '"b"',
        'x/y.pth',
    ]
    expected = DictAction(['--cfg-options'], 'cfg_options')
    namespace = argparse.Namespace()
    expected(None, namespace, [f'k{i}={text}' for i, text in enumerate(texts)])
    assert parse(*(f'k{i}={text}' for i, text in enumerate(texts))) == namespace.cfg_options


@pytest.mark.parametrize(
    ('items', 'message'),
    [
        (['a.b', '3'], "expected KEY=VALUE, got 'a.b'"),
        (['a=1', '=3'], "expected KEY=VALUE, got '=3'"),
        (['a=[1,2'], 'Imbalanced brackets'),
        (['a=[1,2)'], 'Imbalanced brackets'),
        (['a=' + '[' * 5000 + ']' * 5000], 'a: not a Python value'),
        (['a=[dict(b=c)]'], "a: not a Python value: '[dict(b=c)]'"),
        (['a=dict(b='], "a: not a Python value: 'dict(b='"),
        (["a=dict(b=__import__('os'))"], 'a: not a Python value'),
    ],
)
def test_config_options_reject_bad_values(capsys, items, message):
    with pytest.raises(SystemExit) as stop:
        parse(*items)
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert f'error: argument --cfg-options: {message}' in said[-1]


@pytest.mark.parametrize(
    ('options', 'where'), [({'optim_wrapper.optimizer.lr': float('nan')}, '--cfg-options optim_wrapper.optimizer.lr')]
)
def test_load_config_rejects_nan(tmp_path, options, where):
    path = tmp_path / 'config.py'
    path.write_text(TEXT)
    with pytest.raises(InputError, match=f'^{where} is NaN; give a number$'):
        load_config(str(path), options)
    path.write_text(TEXT.replace('eta_max=1.0', "eta_max=float('nan')"))
    with pytest.raises(InputError, match=r'config.py: param_scheduler.0.eta_max is NaN'):
        load_config(str(path))
