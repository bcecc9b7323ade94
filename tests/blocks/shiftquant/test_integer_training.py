"""IntegerTraining: one line of config, the optimizer's parameters, exact resume."""

import copy
import json
import re

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader

from dinor1.blocks.shiftquant import IntConv2d, IntegerRecipe, IntLinear, L1BatchNorm2d, noise_sources
from dinor1.blocks.shiftquant.converter import IntegerTraining
from dinor1.engine.runner import Runner
from dinor1.registry import MODEL_CONVERTERS, MODELS
from dinor1.utils.checkpoint import check_checkpoint, load_model
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.model_converters import convert_model


class Toy(BaseModel):
    """A convolution, a norm and two linear layers, trained on constant data."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, inputs, mode='loss'):
        x = self.bn(self.conv2(self.conv1(inputs))).relu().mean((2, 3))
        x = self.head(self.fc(x))
        return dict(loss=x.square().mean()) if mode == 'loss' else [BaseDataElement(logits=row) for row in x]


class Nothing(BaseMetric):
    """Metric without results."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


class Watch(Hook):
    """Records the weights, the optimizer's parameters and the quantizing layers after every iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.weights, self.enabled, self.same = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model
        self.weights.append(copy.deepcopy(model.state_dict()))
        self.enabled.append(model.conv2.enabled)
        mine = {id(p) for p in model.parameters()}
        self.same.append(mine == {id(p) for group in runner.optim_wrapper.param_groups for p in group['params']})


@pytest.fixture
def train(tmp_path):
    """``train(name, converter, iterations=6, **arguments)``: the runner, its watch and the lines of its log."""

    def run_it(name, converter, iterations=6, **arguments):
        watch = Watch()
        # Train on constant data.
        images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(list(images), 2, collate_fn=lambda items: dict(inputs=torch.stack(items)))
        runner = Runner(
            Toy(),
            str(tmp_path / name),
            train_dataloader=loader,
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
            ),
            custom_hooks=[watch],
            randomness=dict(seed=3),
            visualizer=dict(
                type='Visualizer', name=f'{tmp_path.name}-{name}', vis_backends=[ConfigDict(type='LocalVisBackend')]
            ),
            experiment_name=f'{tmp_path.name}-{name}',
            default_scope='dinor1',
            log_level='ERROR',
            cfg=dict(model_converters=[converter]),
            **arguments,
        )
        runner.train()
        # Read the log.
        (path,) = (tmp_path / name).rglob('scalars.json')
        return runner, watch, [json.loads(line) for line in path.read_text().splitlines()]

    return run_it


INTEGERS = dict(type='IntegerTraining', bits=(4, 4, 4), skip=['conv1', 're:head.*'], stats_interval=2)


def test_integer_training_replaces_layers_and_keeps_optimizer_parameters(train):
    runner, watch, lines = train('replaced', INTEGERS)
    kinds = {name: type(module) for name, module in runner.model.named_children()}
    assert kinds['conv2'] is IntConv2d
    assert kinds['fc'] is IntLinear
    assert kinds['conv1'] is nn.Conv2d
    assert kinds['head'] is nn.Linear
    assert kinds['bn'] is nn.BatchNorm2d
    assert all(watch.same)
    assert all(watch.enabled)
    assert not torch.equal(watch.weights[0]['fc.weight'], watch.weights[-1]['fc.weight'])
    # Closed form: 4 x 4 outputs, 4 channels, 36 weights, plus 12; 6 x 6 x 4 x 9 plus 6. Two images.
    integer, floating = 16 * 4 * 36 + 12, 36 * 4 * 9 + 6
    assert lines[0]['integer_macs'] == pytest.approx(integer / (integer + floating))
    assert 'grad_zeros' not in lines[0]
    assert 0 < lines[1]['grad_zeros'] < 1
    assert sum(lines[1][f'grad_group_{k}'] for k in range(4)) == pytest.approx(1)
    assert runner.model.fc.stats is not None
    assert watch.weights[0].keys() == Toy().state_dict().keys()


def test_integer_training_resumed_run_repeats_noise(train):
    _, whole, _ = train('whole', INTEGERS)
    train('half', INTEGERS, iterations=3)
    runner, rest, _ = train('half', INTEGERS, resume=True)
    assert runner.iter == 6
    assert len(rest.weights) == 3
    for name, value in whole.weights[-1].items():
        assert torch.equal(value, rest.weights[-1][name]), name
    # Another seed gives another result, so the noise has an effect.
    _, other, _ = train('other', INTEGERS | dict(seed=99))
    assert not torch.equal(other.weights[-1]['fc.weight'], whole.weights[-1]['fc.weight'])


def test_integer_training_start_iter_begins_in_floating_point(train):
    _, watch, _ = train('later', INTEGERS | dict(start_iter=4))
    assert watch.enabled == [False] * 4 + [True] * 2
    _, plain, _ = train('plain', INTEGERS | dict(bits=(32, 32, 32)))
    same = [torch.equal(a['fc.weight'], b['fc.weight']) for a, b in zip(watch.weights, plain.weights, strict=True)]
    assert same == [True] * 4 + [False] * 2


def test_integer_training_checkpoint_with_l1_norms_loads(train, tmp_path):
    settings = INTEGERS | dict(norm='l1')
    runner, watch, _ = train('l1', settings)
    assert isinstance(runner.model.bn, L1BatchNorm2d)
    assert 'bn.running_sigma' in watch.weights[0]
    checkpoint = str(tmp_path / 'l1' / 'iter_6.pth')
    check_checkpoint(convert_model(Toy(), [settings])[0], checkpoint, resume=True)
    with pytest.raises(InputError, match='another architecture'):
        check_checkpoint(Toy(), checkpoint, resume=True)


# Config ----------------------------------------------------------------------------------------------------


def test_integer_training_config_in_one_line(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("model_converters = [dict(type='IntegerTraining', bits=(4, 4, 4), skip=['a'])]\n")
    changes = {'model_converters.0.bits': (6, 6, 6), 'model_converters.0.groups': 1}
    converter = MODEL_CONVERTERS.build(load_config(str(path), changes).model_converters[0])
    assert isinstance(converter, IntegerTraining)
    assert converter.recipe == IntegerRecipe((6, 6, 6), groups=1)
    assert converter.skip == ['a']


def test_integer_training_checkpoint_loads_into_integer_model(tmp_path):
    cfg = ConfigDict(
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ConvNet', channels=(4, 4), strides=(1, 2), norm_cfg=dict(type='BN'), act_cfg=None),
            embed_dims=4,
        ),
        model_converters=[dict(type='IntegerTraining', norm='l1', skip=['head'])],
    )
    model = IntegerTraining(norm='l1', skip=['head']).convert(MODELS.build(cfg.model), 0)
    model.eval()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    loaded = load_model(cfg, str(tmp_path / 'epoch_1.pth'))
    x = torch.rand(2, 1, 8, 8) * 255
    assert isinstance(loaded.backbone[0].conv, IntConv2d)
    assert torch.equal(loaded(x), model(x))


def test_integer_training_noise_seed_defaults_to_run_seed():
    for seed, expected in ((None, 3), (7, 7)):
        model = IntegerTraining(skip=['conv1'], seed=seed).convert(Toy(), 3)
        assert {source.seed for source in noise_sources(model).values()} == {expected}


def test_integer_training_test_run_counts_macs(tmp_path):
    """As in tools/test.py: without training, no training iteration sets up the hook."""
    runner = Runner(
        Toy(),
        str(tmp_path),
        test_dataloader=DataLoader([torch.zeros(1, 8, 8)], collate_fn=lambda items: dict(inputs=torch.stack(items))),
        test_cfg=dict(),
        test_evaluator=[Nothing()],
        cfg=dict(model_converters=[INTEGERS]),
        default_scope='dinor1',
        log_level='ERROR',
        experiment_name=f'{tmp_path.name}-test',
    )
    runner.test()
    assert isinstance(runner.model.conv2, IntConv2d)
    integer, floating = 16 * 4 * 36 + 12, 36 * 4 * 9 + 6
    share = runner.message_hub.get_scalar('test/integer_macs').current()
    assert share == pytest.approx(integer / (integer + floating))
    assert share == runner.model_converters[0].report.macs.share


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(skip=['conv3']), "'conv3' matches no module of Toy"),
        (dict(skip=['re:.*']), 'no layer of Toy was replaced'),
        (dict(bits=(4, 4)), 'bits must be three'),
    ],
)
def test_integer_training_bad_settings_raise_before_training(train, changes, message):
    with pytest.raises(InputError, match=message):
        train('refused', INTEGERS | changes)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(start_iter=-1), 'must not be negative'),
        (dict(stats_interval=-1), 'must not be negative'),
        (dict(bist=(4, 4, 4)), "unknown setting 'bist'; did you mean 'bits'?"),
        (dict(grad_roundin='nearest'), "did you mean 'grad_rounding'?"),
        (dict(backend='cuda'), 'backend must be one of'),
    ],
)
def test_integer_training_bad_arguments_raise(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        IntegerTraining(**arguments)
