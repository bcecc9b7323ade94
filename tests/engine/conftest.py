"""Fixtures for complete tiny runs: a few images of the shapes world, the tiny model, the Runner."""

import copy

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook


class RecordHook(Hook):
    """Keeps scalars and batch number of every iteration, and calls ``on_iter(runner)`` before each iteration."""

    priority = 'LOW'

    def __init__(self, on_iter=None):
        self.history, self.batches, self.on_iter = [], [], on_iter

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.on_iter is not None:
            self.on_iter(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.batches.append(batch_idx)
        self.history.append({name: float(value) for name, value in outputs.items()})


@pytest.fixture(scope='session')
def shapes_dir(tmp_path_factory):
    """Folder of a shapes world with 24 training images and 8 images per other split."""
    from dinor1.datasets.shapes_world import generate

    root = tmp_path_factory.mktemp('data')
    generate(root / 'shapes', sizes=dict(train=24, val_base=8, val_novel=8, support_novel=8))
    return root


@pytest.fixture(scope='session')
def read_shapes_config(shapes_dir, repo):
    """``read_shapes_config('configs/...')`` reads a recipe of the shapes world, with the data above."""
    import os

    def read(path):
        os.environ['DINOR1_DATA'] = str(shapes_dir)
        try:
            return Config.fromfile(repo / path)
        finally:
            del os.environ['DINOR1_DATA']

    return read


@pytest.fixture(scope='session')
def tiny_run_config(read_shapes_config):
    """The nano GRQO recipe with the tiny model: 3 epochs of 6 iterations, no validation."""
    from tests.conftest import tiny_config

    cfg = read_shapes_config('configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py')
    cfg.merge_from_dict({'model': tiny_config()['model'].to_dict(), 'model.bbox_head.num_classes': 16})
    return short_run(cfg, epochs=3)


def short_run(cfg, epochs):
    """Change a config: batches of 4 without worker processes, no evaluation, few logs."""
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler[0].total_steps = epochs
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks.pop('visualization')
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.log_level = 'ERROR'
    return cfg


@pytest.fixture
def train(tiny_run_config, tmp_path):
    """``train(name, on_iter=None, without=(), cfg=None, **overrides)`` runs a config, the tiny recipe or another.

    ``without`` names default hooks to leave out. Returns the runner, and the recorder with the history of scalars.
    """
    from dinor1.engine import Runner

    def run(name, on_iter=None, without=(), cfg=None, **overrides):
        # Prepare the config.
        cfg = copy.deepcopy(tiny_run_config if cfg is None else cfg)
        cfg.work_dir = str(tmp_path / name)
        cfg.experiment_name = f'{tmp_path.name}-{name}-{len(overrides)}-{id(cfg)}'
        for hook in without:
            cfg.default_hooks.pop(hook)
        cfg.merge_from_dict(overrides)
        # Train, and record the scalars.
        runner = Runner.from_cfg(cfg)
        recorder = RecordHook(on_iter)
        runner.register_hook(recorder)
        try:
            runner.train()
        except SystemExit as stop:
            recorder.exit_code = stop.code
        return runner, recorder

    return run
