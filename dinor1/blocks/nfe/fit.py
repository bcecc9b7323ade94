"""Training of small graphs without a framework. For large graphs use ``configs/kge`` and ``dinor1 train``."""

from collections.abc import Callable

import torch
from torch import Tensor

from .nfe import NFE
from .triples import with_reciprocals


def fit(
    nfe: NFE,
    triples: Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 128,
    decay: float = 1.0,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train with Adam and multiply the learning rate by ``decay`` after each epoch, as in the released code.

    Args:
        nfe: Changed in place; if it has reciprocal relations, the inverse of each triple is learned too.
        triples: ``(n, 3)`` int64, rows (head, relation, tail), without reciprocals.
        epochs: Passes over the triples.
        lr: Learning rate.
        batch_size: Triples per step, including reciprocals.
        decay: Factor of the learning rate, in (0, 1].
        seed: Seed of the order of the triples.
        on_epoch: Called with the epoch, from 1, and its mean loss.

    Returns:
        Mean loss of each epoch.

    Raises:
        ValueError: there are no triples, or an argument is out of range.
    """
    if not len(triples):
        raise ValueError('triples is empty; give at least one')
    # A model with reciprocal relations also learns each triple in the other direction.
    if nfe.reciprocal:
        triples = with_reciprocals(triples, nfe.num_relations)
    optimizer = torch.optim.Adam(nfe.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    # Draw the order on CPU, so that it is the same on every device.
    generator = torch.Generator().manual_seed(seed)
    losses = []
    # Train epoch by epoch.
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(triples), generator=generator).to(triples.device)
        total = torch.zeros((), device=triples.device)
        for batch in triples[order].split(batch_size):
            loss = nfe.loss(*batch.unbind(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        scheduler.step()
        losses.append(total.item() / len(triples))
        if on_epoch is not None:
            on_epoch(epoch, losses[-1])
    return losses
