"""Random inputs of :class:`dinor1.models.GRQOLoss`."""

import torch

from dinor1.models.losses import hungarian_match, matching_cost, pad_targets


def scene(labels=((0, 1, 1), (2,)), layers=2, queries=30, prompts=3, seed=0, dtype=torch.float64):
    """Random predictions and ground truth.

    Args:
        labels: Per image the class of each object.
        layers: Number of decoder layers L.
        queries: Number of queries Q per image.
        prompts: Number of prompts K.
        seed: Seed of the random numbers.
        dtype: Dtype of all tensors.

    Returns:
        The leaves (logits, boxes), the matching cost with gradient to them, the targets, the prompt logits (B, Q, K) of
        the selected tokens in descending order of objectness, and objectness logits (B, Q) of a reference.
    """
    # Draw predictions and objects.
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(labels), queries, prompts, generator=g, dtype=dtype).requires_grad_()
    boxes = (torch.rand(layers, len(labels), queries, 4, generator=g, dtype=dtype) * 0.5 + 0.2).requires_grad_()
    corners = [torch.rand(len(label), 2, generator=g, dtype=dtype) * 40 for label in labels]
    gt = [torch.cat([c, c + 5 + torch.rand(c.shape, generator=g, dtype=dtype) * 30], 1) for c in corners]
    maps = [torch.eye(prompts, dtype=dtype)[list(label)] for label in labels]
    targets = pad_targets(gt, maps, torch.tensor([[80, 100]] * len(labels)))
    # Draw the selected tokens, in descending order of objectness, and a reference that differs from them.
    tokens = torch.randn(len(labels), queries, prompts, generator=g, dtype=dtype)
    order = tokens.amax(-1).argsort(dim=1, descending=True)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens)).requires_grad_()
    ref = tokens.detach().amax(-1) + 0.5 * torch.randn(len(labels), queries, generator=g, dtype=dtype)
    return (logits, boxes), matching_cost(logits, boxes, targets), targets, tokens, ref


def per_layer(loss, cost, targets, tokens, ref):
    """Values (L,) of ``loss`` for each decoder layer."""
    losses = loss(cost, targets, hungarian_match(cost, targets), tokens, tokens.amax(-1), ref)
    names = [f'd{i}.loss_grqo' for i in range(len(cost) - 1)] + ['loss_grqo']
    return torch.stack([losses[name] for name in names])
