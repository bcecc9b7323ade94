"""WeightNormHook: scalars.json has the norms of the weights of each iteration."""

import json
import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from dinor1.blocks.adamp.weight_norm_hook import WeightNormHook
from dinor1.utils.errors import InputError


class Toy(BaseModel):
    """Two linear layers; with a constant input of ones every gradient is known."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 3)
        self.second = torch.nn.Linear(3, 2)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.second(self.first(inputs)).square().mean())


class Snapshot(Hook):
    """Records the weights after every update."""

    def __init__(self):
        self.weights = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.weights.append({name: p.detach().double() for name, p in runner.model.state_dict().items()})


@pytest.fixture
def train(tmp_path):
    """``train(hook)``: six iterations, logged every two; the written scalars and the weights of every iteration."""

    def run(hook, name):
        # Train, then read the scalars.
        snapshot = Snapshot()
        runner = Runner(
            Toy(),
            str(tmp_path),
            train_dataloader=DataLoader([torch.ones(4)] * 6, collate_fn=lambda items: dict(inputs=torch.stack(items))),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=6),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=None),
            custom_hooks=[hook, snapshot],
            visualizer=dict(
                type='Visualizer', name=f'weight_norm_{name}', vis_backends=[ConfigDict(type='LocalVisBackend')]
            ),
            experiment_name=f'weight_norm_{name}',
            default_scope='mmengine',
            log_level='ERROR',
        )
        runner.train()
        (path,) = tmp_path.rglob('scalars.json')
        return [json.loads(line) for line in path.read_text().splitlines()], snapshot.weights

    return run


def norm(tensor):
    return math.sqrt(tensor.square().sum())


def test_weight_norm_hook_logs_mean_per_pattern(train):
    hook = dict(type=WeightNormHook, interval=2, patterns=dict(weights=r'weight$', first=r'^first\.'))
    lines, weights = train(hook, 'each')
    assert [line['step'] for line in lines] == [2, 4, 6]
    for line in lines:
        now = weights[line['step'] - 1]
        expected = (norm(now['first.weight']) + norm(now['second.weight'])) / 2
        # Float32 norms of 12 numbers against float64.
        assert line['weight_norm/weights'] == pytest.approx(expected, rel=1e-6)
        expected = (norm(now['first.weight']) + norm(now['first.bias'])) / 2
        assert line['weight_norm/first'] == pytest.approx(expected, rel=1e-6)
    assert len({line['weight_norm/weights'] for line in lines}) == 3


def test_weight_norm_hook_repeats_latest_between_measurements(train):
    lines, weights = train(dict(type=WeightNormHook, interval=4, patterns=dict(second=r'^second\.weight$')), 'stays')
    assert 'weight_norm/second' not in lines[0]
    expected = norm(weights[3]['second.weight'])
    assert [line['weight_norm/second'] for line in lines[1:]] == pytest.approx([expected] * 2, rel=1e-6)


def test_weight_norm_hook_pattern_without_match_raises(train):
    with pytest.raises(InputError, match=r"pattern 'conv' of 'convs' matches no parameter.*'first.weight'"):
        train(dict(type=WeightNormHook, patterns=dict(convs='conv')), 'refused')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(patterns={}), 'no patterns'),
        (dict(patterns=dict(a='x'), interval=0), 'interval must be at least 1'),
        (dict(patterns=dict(a='(')), "pattern '\\(' of 'a' is not a regular expression"),
    ],
)
def test_weight_norm_hook_bad_settings_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        WeightNormHook(**arguments)
