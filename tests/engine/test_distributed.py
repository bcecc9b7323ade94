"""Two processes with gloo: DDP, where one process has no box, and FSDP, where no process has the whole model."""

import copy
import logging
from types import SimpleNamespace

import torch
from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel

from tests.conftest import tiny_config
from tests.two_processes import join, leave, run

GRQO = {'model.bbox_head.loss_grqo': dict(type='GRQOLoss')}
COUNTS = {0: (3, 1), 1: (0, 0)}  # the second process sees no box at all


def step(rank: int, port: int, model, batches, queue) -> None:
    """One GRQO step of one process; reports its gradients."""
    join(rank, port)
    from dinor1.models import ReferenceModel

    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    # Without find_unused_parameters, DDP stops at the second step if a parameter got no gradient in the first.
    wrapped = MMDistributedDataParallel(model)
    inputs, samples = batches[rank]
    for _ in range(2):
        torch.manual_seed(rank)
        wrapped.zero_grad()
        loss, _ = model.parse_losses(wrapped(inputs, samples, mode='loss'))
        loss.backward()
    queue.put((rank, loss.item(), {n: p.grad.numpy() for n, p in model.named_parameters()}))
    leave()


def sharded(rank: int, port: int, cfg, batches, queue) -> None:
    """One GRQO forward and backward pass of a sharded model whose reference the hook has just made."""
    join(rank, port)
    import dinor1
    from dinor1.engine import ReferenceModelHook
    from dinor1.registry import MODELS

    dinor1.register_all()
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    wrapped = MMFullyShardedDataParallel(model, device_id=torch.device('cpu'), use_orig_params=True)
    hook = ReferenceModelHook(warmup=0, mode='train')
    hook.before_train_epoch(SimpleNamespace(model=wrapped, cfg=cfg, epoch=0, seed=0, logger=logging.getLogger()))
    inputs, samples = batches[0]
    loss, figures = wrapped.module.parse_losses(wrapped(inputs, samples, mode='loss'))
    loss.backward()
    queue.put((rank, loss.item(), float(figures['grqo_kl'])))
    leave()


def test_two_processes_agree_though_one_has_no_box(build_tiny, make_batch):
    batches = {rank: make_batch(counts, seed=rank) for rank, counts in COUNTS.items()}
    (_, loss, gradients), (_, other_loss, other_gradients) = run(step, build_tiny(**GRQO), batches)
    assert loss == loss
    assert other_loss == other_loss
    for name, gradient in gradients.items():
        assert (gradient == other_gradients[name]).all(), name


def test_a_sharded_model_gets_a_whole_reference(make_batch):
    """Same weights, same mode, no dropout: the KL is 0 only if the gathered weights are the right ones."""
    (_, loss, kl), (_, other_loss, other_kl) = run(sharded, tiny_config(**GRQO), {0: make_batch((2, 1))})
    assert loss == other_loss
    assert loss == loss
    assert kl == other_kl == 0
