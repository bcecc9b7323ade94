"""Similarity of prompt embeddings within and between classes.

The ratio of the mean cosine within classes to that between classes is DETR-ViP's diagnostic (arXiv 2604.14684). The
paper does not specify how it averages; :func:`iisr` documents the averages used here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-6


def iisr(prompts: Tensor, labels: Tensor) -> dict[str, float]:
    """Intra- over inter-class similarity of prompt embeddings.

    Args:
        prompts: (M, C) one embedding per exemplar.
        labels: (M,) their classes.

    Returns:
        ``intra``: mean cosine of two prompts of one class, averaged over the classes with at least two prompts;
        ``inter_proto``: cosine of the mean embeddings of two classes, averaged over pairs of classes; ``inter_pair``:
        mean cosine of a prompt of one class and a prompt of another, averaged over pairs of classes; ``iisr`` = intra /
        inter_proto and ``iisr_pair`` = intra / inter_pair, with denominators of at least 1e-6. NaN without a pair.
        ``clamped`` is 1 if one of the denominators was below 1e-6, in which case the ratios are meaningless, else 0.
    """
    # Similarity within classes.
    prompts = prompts.double()
    cosine = F.normalize(prompts, dim=-1) @ F.normalize(prompts, dim=-1).t()
    classes, index = labels.unique(return_inverse=True)
    member = F.one_hot(index, len(classes)).to(prompts)
    counts = member.sum(0)
    within = (member * (cosine @ member)).sum(0) - (member * cosine.diagonal()[:, None]).sum(0)
    several = counts > 1
    intra = (within / (counts * (counts - 1)).clamp(min=1))[several].mean()
    # Similarity between classes.
    prototypes = F.normalize(member.t() @ prompts / counts[:, None], dim=-1)
    others = ~torch.eye(len(classes), dtype=torch.bool, device=prompts.device)
    inter_proto = (prototypes @ prototypes.t())[others].mean()
    inter_pair = ((member.t() @ cosine @ member) / (counts[:, None] * counts))[others].mean()
    values = dict(intra=intra, inter_proto=inter_proto, inter_pair=inter_pair)
    values |= dict(iisr=intra / inter_proto.clamp(min=_LEAST), iisr_pair=intra / inter_pair.clamp(min=_LEAST))
    values['clamped'] = (torch.minimum(inter_proto, inter_pair) < _LEAST).double()
    return {name: value.item() for name, value in values.items()}


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of Bernoulli variables with log-odds ``logits``, of any shape; 0 at plus and minus infinity."""
    magnitude = logits.abs()
    certain = magnitude.isinf()
    # With u = exp(-|x|): log(1 + u) + |x| u / (1 + u), which never overflows.
    finite = magnitude.masked_fill(certain, 0.0)
    entropy = torch.log1p((-finite).exp()) + finite * torch.sigmoid(-finite)
    return entropy.masked_fill(certain, 0.0)
