"""Two processes with gloo: DDP, in which one process has no box, and FSDP, in which no process has the whole model.

Both must train like one process that uses the batches of both.
"""

import copy
import logging
from types import SimpleNamespace

import torch
from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
from mmengine.optim import OptimWrapper

from tests.conftest import tiny_config
from tests.two_processes import join, leave, run

GRQO = {'model.bbox_head.loss_grqo': dict(type='GRQOLoss')}
COUNTS = {0: (3, 1), 1: (0, 0)}  # boxes per image; the second process has none


def step(rank: int, port: int, model, batches, queue) -> None:
    """One GRQO step of one process; reports its gradients."""
    join(rank, port)
    from dinor1.models import ReferenceModel

    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    # Run two steps: without find_unused_parameters, DDP fails in the second if a parameter got no gradient before.
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
    """One GRQO forward and backward pass of a sharded model, right after the hook has made its reference."""
    join(rank, port)
    import dinor1
    from dinor1.engine import ReferenceModelHook
    from dinor1.registry import MODELS

    dinor1.register_all()
    # Build and shard the model.
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    wrapped = MMFullyShardedDataParallel(model, device_id=torch.device('cpu'), use_orig_params=True)
    # Make the reference, and run both passes.
    hook = ReferenceModelHook(warmup=0, mode='train')
    hook.before_train_epoch(SimpleNamespace(model=wrapped, cfg=cfg, epoch=0, seed=0, logger=logging.getLogger()))
    inputs, samples = batches[0]
    loss, figures = wrapped.module.parse_losses(wrapped(inputs, samples, mode='loss'))
    loss.backward()
    queue.put((rank, loss.item(), float(figures['grqo_kl'])))
    leave()


def test_ddp_gradients_agree_if_one_process_has_no_box(build_tiny, make_batch):
    batches = {rank: make_batch(counts, seed=rank) for rank, counts in COUNTS.items()}
    (_, loss, gradients), (_, other_loss, other_gradients) = run(step, build_tiny(**GRQO), batches)
    assert loss == loss
    assert other_loss == other_loss
    for name, gradient in gradients.items():
        assert (gradient == other_gradients[name]).all(), name


def test_fsdp_reference_model_has_whole_weights(make_batch):
    """With equal mode and no dropout, the KL is 0 only if the reference has the gathered weights of the model."""
    (_, loss, kl), (_, other_loss, other_kl) = run(sharded, tiny_config(**GRQO), {0: make_batch((2, 1))})
    assert loss == other_loss
    assert loss == loss
    assert kl == other_kl == 0


# Boxes per image of each rank, for batches of two images; in some batches one rank or both have no boxes.
NUM_STEPS = 20
STEP_COUNTS = [((2, 1), (1, 3)), ((3, 0), (0, 0)), ((0, 0), (0, 0)), ((1, 1), (4, 2))]
CLIP = dict(max_norm=1.0)


def shared_count_head() -> type:
    """Make a head that divides by recorded means instead of reducing counts over processes."""
    from dinor1.models.heads import DINOR1Head

    class SharedCountHead(DINOR1Head):
        recorded: list
        means: list | None = None

        def mean_count(self, own_count):
            if self.means is None:
                self.recorded.append(own_count)
                return own_count
            return self.means.pop(0)

    return SharedCountHead


def replica(rank: int, port: int, model, batches, queue) -> None:
    """Train a rank on its own batches; puts its losses and final weights into the queue."""
    join(rank, port)
    from dinor1.models import ReferenceModel

    model = copy.deepcopy(model)  # both processes get the same memory
    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    wrapped = MMDistributedDataParallel(model)
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3), clip_grad=dict(CLIP))
    losses = []
    for number, ranks in enumerate(batches):
        torch.manual_seed(2 * number + rank)
        loss, _ = model.parse_losses(wrapped(*ranks[rank], mode='loss'))
        optimizer.update_params(loss)
        losses.append(loss.item())
    queue.put((rank, losses, {name: p.detach().numpy() for name, p in model.named_parameters()}))
    leave()


def micro_batches(model, batches) -> list[tuple[float, float]]:
    """Train one process on the batches of both ranks, and average their gradients; returns the losses of both.

    A rank divides the losses of boxes by the mean number of objects over the ranks. One process knows this mean only
    after both micro-batches: a first pass, with the same random numbers, records the numbers of objects.
    """
    from dinor1.models import ReferenceModel

    head = model.bbox_head
    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    optimizer = OptimWrapper(
        torch.optim.AdamW(model.parameters(), lr=1e-3), clip_grad=dict(CLIP), accumulative_counts=2
    )
    losses = []
    for number, ranks in enumerate(batches):
        # Record the numbers of objects of both ranks.
        head.means, counts = None, []
        for rank, batch in enumerate(ranks):
            head.recorded = []
            torch.manual_seed(2 * number + rank)
            with torch.no_grad():
                model(*batch, mode='loss')
            counts.append(head.recorded)
        # Accumulate the gradients of both ranks.
        means = [(own + other) / 2 for own, other in zip(*counts, strict=True)]
        both = []
        for rank, batch in enumerate(ranks):
            head.means = list(means)
            torch.manual_seed(2 * number + rank)
            loss, _ = model.parse_losses(model(*batch, mode='loss'))
            optimizer.update_params(loss)
            both.append(loss.item())
            assert not head.means
        losses.append(tuple(both))
    return losses


def test_ddp_two_ranks_train_like_gradient_accumulation(build_tiny, make_batch):
    """Weights after 20 steps are equal, also with batch norm, which uses the statistics of one micro-batch.

    DDP halves the gradients of two ranks and adds them; gradient accumulation halves the losses. Halving is exact, and
    a sum of two has one order, so that the weights are bitwise equal if the kernels are the same. Another build of
    torch may round differently, and AdamW amplifies this if a gradient is near 0; the tolerance of 1e-5 of the largest
    weight is 1 % of one of the 20 steps.
    """
    # Train on two ranks.
    batches = [
        [make_batch(counts, side=32, seed=2 * number + rank) for rank, counts in enumerate(STEP_COUNTS[number % 4])]
        for number in range(NUM_STEPS)
    ]
    (_, losses, weights), (_, other_losses, other_weights) = run(replica, build_tiny(**GRQO), batches)
    # Train one process, and compare losses and weights.
    model = build_tiny(**GRQO, **{'model.bbox_head.type': shared_count_head()})
    torch.set_num_threads(1)
    expected = micro_batches(model, batches)
    assert torch.allclose(torch.tensor([losses, other_losses]).T, torch.tensor(expected), rtol=1e-5)
    for name, parameter in model.named_parameters():
        assert (weights[name] == other_weights[name]).all(), name
        difference = (parameter.detach() - torch.from_numpy(weights[name])).abs().max()
        assert difference <= 1e-5 * parameter.abs().max(), name
