"""Errors of train.py, test.py and build_prompt_bank.py before a run begins."""

import pytest
import torch
from mmengine.config import Config

from dinor1.engine.run_checks import check_testing, check_training
from dinor1.utils.errors import InputError
from tests.tools.test_tools_bad_input import assert_refused, results_in, unique

# MMEngine warns that several runs in one process share a visualizer.
pytestmark = pytest.mark.filterwarnings('ignore:.*instance named of visualizer')


@pytest.mark.parametrize(
    ('tool', 'changes', 'message'),
    [
        ('train', dict(model=None), 'has no model; give a config that can train'),
        ('train', dict(train_dataloader=None, optim_wrapper=None), 'has no train_dataloader, optim_wrapper; give'),
        ('train', dict(train_dataloader=dict(batch_size=1)), 'train_dataloader has no dataset'),
        ('train', dict(val_evaluator=None), 'has no val_evaluator; give all of val_dataloader'),
        ('train', dict(model=dict(num_queries=3)), 'model has no type'),
        ('train', dict(default_scope=None), "in this scope; the config needs default_scope = 'dinor1'"),
        ('train', dict(model=dict(type='CocoPromptDataset')), "'CocoPromptDataset' of model; it is a type of dataset"),
        ('test', dict(model=None), 'has no model; give a config that can test'),
        ('test', dict(test_dataloader=None, test_cfg=None, test_evaluator=None), 'has no test_dataloader, test_cfg'),
        ('test', dict(test_evaluator=None), 'has no test_evaluator; give a config that can test'),
        ('test', dict(val_cfg=None), 'has no val_cfg; give all of val_dataloader'),
    ],
)
def test_config_without_a_part_is_rejected(call, run_config, model_files, tmp_path, tool, changes, message):
    cfg = Config.fromfile(run_config)
    for key, value in changes.items():
        cfg.pop(key)
        if value is not None:
            cfg[key] = value
    cfg.dump(tmp_path / 'changed.py')
    arguments = [tmp_path / 'changed.py', *([model_files.checkpoint] if tool == 'test' else [])]
    outcome = call(tool, *arguments, '--work-dir', tmp_path / 'run', *unique(tmp_path))
    assert_refused(outcome, message)
    assert not results_in(tmp_path / 'run')


@pytest.mark.parametrize(('tool', 'suffix'), [('test', 'pkl'), ('build_prompt_bank', 'safetensors')])
def test_unwritable_output_is_rejected_before_model_is_built(call, model_files, tmp_path, tool, suffix):
    config = tmp_path / 'config.py'
    # The model cannot be built: --out must be checked before.
    config.write_text(
        "model = dict(type='X')\nprompt_dataset = dict()\ntest_cfg = dict()\ntest_evaluator = dict(type='X')\n"
        'test_dataloader = dict(dataset=dict())'
    )
    (tmp_path / 'file').touch()
    (tmp_path / f'folder.{suffix}').mkdir()
    for out, words in [(f'file/a.{suffix}', 'file is not a folder'), (f'folder.{suffix}', 'is a folder')]:
        outcome = call(tool, config, model_files.checkpoint, '--out', tmp_path / out)
        assert_refused(outcome, f'--out {tmp_path / out}: ', words)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_train_amp_float16_without_gpu(call, run_config):
    assert_refused(call('train', run_config, '--amp'), '--amp float16: needs a GPU; give --amp bfloat16')


def test_check_training_accepts_numbers_of_mmengine(run_config):
    cfg = Config.fromfile(run_config)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=9e4, val_interval=float('inf'))
    check_training(cfg, 'a.py')
    cfg.train_cfg.max_iters = 0.5
    with pytest.raises(InputError, match='max_iters must be a whole number'):
        check_training(cfg, 'a.py')
    # A test does not check the settings of the training.
    cfg.train_dataloader = dict(batch_size=0)
    check_testing(cfg, 'a.py')


def test_check_training_requires_class_names_of_concatenated_sets(run_config):
    """Without names, class 1 of one set would be treated as class 1 of another."""
    cfg = Config.fromfile(run_config)
    part = cfg.train_dataloader.dataset.to_dict() | dict(return_classes=True)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, part], ignore_keys=['classes'])
    check_training(cfg, 'a.py')
    cfg.train_dataloader.dataset.datasets[1].pipeline[-1] = dict(type='PackDetInputs')
    with pytest.raises(InputError, match=r"datasets\[1\] does not pass on its class names.*'text'"):
        check_training(cfg, 'a.py')


def test_check_training_requires_scope_of_federated_sets(run_config):
    """Otherwise the option would have no effect."""
    cfg = Config.fromfile(run_config)
    keys = ('img_id', 'img_shape', 'text', 'annotated_labels', 'exhaustive_labels')
    part = cfg.train_dataloader.dataset.to_dict() | dict(return_classes=True, federated=True)
    part['pipeline'] = [*part['pipeline'][:-1], dict(type='PackDetInputs', meta_keys=keys)]
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[part]))
    check_training(cfg, 'a.py')
    cfg.train_dataloader.dataset.dataset.datasets[0].pipeline[-1].meta_keys = keys[:-1]
    message = r"dataset.dataset.datasets\[0\] is federated .* add 'exhaustive_labels' to meta_keys"
    with pytest.raises(InputError, match=message):
        check_training(cfg, 'a.py')
