"""The Runner on two ranks without a GPU: signals, exact resume, accumulation, sharding, evaluation."""

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.dist import barrier

from tests.engine.conftest import RecordHook
from tests.two_processes import environment, leave, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason='the ranks would get GPUs, which a test may lack'),
]
WRAPPERS = dict(ddp=None, fsdp=dict(type='MMFullyShardedDataParallel'))
# 12 images per rank in batches of 5, 5 and 2; GRQO begins in the second epoch.
EPOCHS, ITERS = 2, 3
# The signal comes in iteration STOP, with accumulated gradients; the optimizer steps after LAST iterations.
STOP, LAST = 2, 4


def trained(cfg, name: str, stop_at: int | None = None, **overrides) -> tuple[list[dict], int, object]:
    """Run this rank; returns its scalars per iteration, its exit status, and the runner."""
    from dinor1.engine import Runner

    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(Path(cfg.work_dir) / name)
    cfg.experiment_name = f'{name}-{len(overrides)}'
    cfg.merge_from_dict(overrides)
    runner = Runner.from_cfg(cfg)
    recorder = RecordHook()
    runner.register_hook(recorder)
    if stop_at is not None:
        # Send the signal within a step, at the same iteration of every rank.
        backbone = runner.model.module.backbone
        backbone.register_forward_hook(
            lambda *_: os.kill(os.getpid(), signal.SIGTERM) if runner.iter == stop_at else None
        )
    try:
        runner.train()
    except SystemExit as stop:
        return recorder.history, stop.code, runner
    return recorder.history, 0, runner


def rank_runs(rank: int, port: int, cfg, queue) -> None:
    """For both wrappers, run a whole training and one that is stopped and resumed; then evaluate."""
    # Set up the process.
    os.environ.update(environment(rank, port))
    os.chdir(cfg.work_dir)  # MMEngine collects results of an evaluation in the current folder
    torch.set_num_threads(1)
    import dinor1

    dinor1.register_all()
    from dinor1.engine import Runner
    from dinor1.utils.checkpoint import check_checkpoint

    # Train with both wrappers.
    found = {}
    for name, wrapper in WRAPPERS.items():
        cfg.model_wrapper_cfg = wrapper
        whole, _, _ = trained(cfg, f'{name}_whole')
        parts, status, _ = trained(cfg, f'{name}_parts', stop_at=STOP)
        rest, _, runner = trained(cfg, f'{name}_parts', resume=True)
        barrier()  # wait until the first rank has written the checkpoint
        check_checkpoint(runner.model, f'{runner.work_dir}/epoch_{EPOCHS}.pth')
        found[name] = dict(whole=whole, parts=parts, rest=rest, status=status, wrapper=type(runner.model).__name__)
    # Resume with the other wrapper, and evaluate.
    cfg.model_wrapper_cfg = None
    iteration = f'{cfg.work_dir}/fsdp_parts/iter_{LAST}.pth'
    found['other_wrapper'], _, _ = trained(cfg, 'fsdp_to_ddp', resume=True, load_from=iteration)
    evaluation = copy.deepcopy(cfg)
    found['metrics'] = evaluate(Runner, evaluation, f'{cfg.work_dir}/ddp_whole/epoch_{EPOCHS}.pth', f'ranks{rank}')
    queue.put((rank, found))
    leave()


def evaluate(runner_type, cfg, checkpoint: str, name: str) -> dict[str, float]:
    """Metrics of a checkpoint, without the times."""
    cfg.update(load_from=checkpoint, work_dir=f'{cfg.work_dir}/test', experiment_name=name, **cfg.evaluation)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    return {key: value for key, value in runner_type.from_cfg(cfg).test().items() if 'time' not in key}


@pytest.fixture(scope='module')
def run_cfg(tiny_run_config, read_shapes_config, tmp_path_factory):
    """The tiny GRQO recipe on two ranks, with accumulated gradients and an uneven last batch."""
    full = read_shapes_config('configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py')
    cfg = copy.deepcopy(tiny_run_config)
    cfg.train_dataloader.batch_size = 5
    cfg.train_cfg.max_epochs = cfg.param_scheduler[0].total_steps = EPOCHS
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.model.prompts = full.model.prompts  # the temperature is a scalar, which FSDP does not shard
    loader = copy.deepcopy(full.test_dataloader)
    loader.update(batch_size=3, num_workers=0, persistent_workers=False)
    loader.dataset.indices = 7  # the ranks have different numbers of images
    # Keep many detections, because the model is hardly trained.
    cfg.model.test_cfg.max_per_img = 50
    prompts = dict(type='VisualInteractive')
    cfg.evaluation = dict(
        test_dataloader=loader,
        test_cfg=dict(type='PromptedTestLoop', prompts=prompts),
        test_evaluator=[full.test_evaluator, dict(type='DumpResults', out_file_path='detections.pkl')],
    )
    cfg.launcher = 'pytorch'
    cfg.work_dir = str(tmp_path_factory.mktemp('ranks'))
    cfg.evaluation['test_evaluator'][1]['out_file_path'] = f'{cfg.work_dir}/detections.pkl'
    return cfg


@pytest.fixture(scope='module')
def runs(run_cfg):
    """Results of the two ranks; their work directory is that of ``run_cfg``."""
    return [found for _, found in run(rank_runs, run_cfg)]


@pytest.mark.parametrize('name', list(WRAPPERS))
def test_sigterm_ends_all_ranks_after_same_iteration(runs, run_cfg, name):
    folder = Path(run_cfg.work_dir) / f'{name}_parts'
    for found in (rank[name] for rank in runs):
        assert found['status'] == 128 + signal.SIGTERM
        assert len(found['parts']) == LAST
    assert [path.name for path in folder.glob('iter_*.pth')] == [f'iter_{LAST}.pth']


@pytest.mark.parametrize('name', list(WRAPPERS))
def test_resumed_ranks_equal_uninterrupted_ones(runs, name):
    for found in (rank[name] for rank in runs):
        assert len(found['whole']) == EPOCHS * ITERS
        assert found['parts'] + found['rest'] == found['whole']
    assert 'loss_grqo' in runs[0][name]['whole'][-1]
    assert runs[0][name]['whole'] != runs[1][name]['whole']  # the ranks have different images


def test_fsdp_trains_like_ddp(runs, run_cfg):
    """Losses and weights are equal, and checkpoints have the same names and shapes."""
    for rank in runs:
        assert rank['ddp']['wrapper'] == 'MMDistributedDataParallel'
        assert rank['fsdp']['wrapper'] == 'MMFullyShardedDataParallel'
        losses = [torch.tensor([scalars['loss'] for scalars in rank[name]['whole']]) for name in WRAPPERS]
        assert torch.allclose(*losses, rtol=1e-5)
    one, other = (
        torch.load(f'{run_cfg.work_dir}/{name}_whole/epoch_{EPOCHS}.pth', weights_only=False) for name in WRAPPERS
    )
    assert one['state_dict'].keys() == other['state_dict'].keys()
    assert relative_distance(one['state_dict'], other['state_dict']) < 1e-4
    scalar = [float(checkpoint['state_dict']['alignment.logit_scale']) for checkpoint in (one, other)]
    assert scalar[0] == pytest.approx(scalar[1], rel=1e-5)
    for statistic in ('step', 'exp_avg', 'exp_avg_sq'):
        # Compare AdamW's statistics by the index of the parameter. Gradients are not smooth (ReLU, matching): if
        # weights differ by 1e-6, gradients of the backbone differ by 1e-3, and for 1e-5 by 6e-3. Statistics of another
        # parameter, or of the images of one process, would differ by about their own size.
        states = [{key: state[statistic] for key, state in c['optimizer']['state'].items()} for c in (one, other)]
        assert relative_distance(*states) < 2e-2


def test_fsdp_checkpoint_resumes_with_ddp(runs):
    for rank in runs:
        pair = [torch.tensor([s['loss'] for s in part]) for part in (rank['other_wrapper'], rank['fsdp']['rest'])]
        assert torch.allclose(*pair, rtol=1e-5)


def relative_distance(tensors: dict, others: dict) -> float:
    """||x - y|| / ||x|| over all tensors together, because weights without gradient change by rounding errors."""
    assert all(tensor.shape == others[name].shape for name, tensor in tensors.items())
    pair = [torch.cat([group[name].flatten().double() for name in tensors]) for group in (tensors, others)]
    return float((pair[0] - pair[1]).norm() / pair[0].norm())


def test_metrics_of_two_ranks_equal_one_process(runs, run_cfg):
    import pickle

    from dinor1.engine import Runner

    # Evaluate in one process.
    path = Path(run_cfg.work_dir) / 'detections.pkl'
    of_ranks = pickle.loads(path.read_bytes())
    cfg = copy.deepcopy(run_cfg)
    cfg.launcher = 'none'
    metrics = evaluate(Runner, cfg, f'{cfg.work_dir}/ddp_whole/epoch_{EPOCHS}.pth', 'alone')
    alone = pickle.loads(path.read_bytes())
    # Compare metrics and detections.
    assert runs[0]['metrics'] == pytest.approx(metrics, abs=1e-4)
    assert [sample['img_id'] for sample in of_ranks] == [sample['img_id'] for sample in alone]
    assert len(alone) == 7
    for sample, expected in zip(of_ranks, alone, strict=True):
        assert len(expected['pred_instances']['scores']) > 0
        assert torch.allclose(sample['pred_instances']['scores'], expected['pred_instances']['scores'], atol=1e-4)
