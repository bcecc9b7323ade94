"""The prompts of one image, and of one batch.

Boxes drawn on pictures, class names and banks from disk all become a :class:`PromptSet`; from there on nobody asks
where a prompt came from. A text prompt is one embedding per token, a visual prompt one embedding per class, so a
class owns one or more rows of ``embeddings``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.errors import InputError


@dataclass(frozen=True)
class PromptSet:
    """Prompts offered to one image.

    Attributes:
        embeddings: (K, C), one row per prompt.
        names: Names of the classes; label ``i`` of a prediction means ``names[i]``.
        labels: (K,) class of each prompt. -1: takes part in the attention but belongs to no class (the separators
            of a tokenised text).
        mask: (K,) True = valid, False = not offered.
        groups: (K,) prompts of one group attend to each other in the encoder, and to nothing else.
        negative: (num_classes,) True = the class takes part in scoring but is never reported.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    labels: Tensor
    mask: Tensor
    groups: Tensor
    negative: Tensor

    def __post_init__(self) -> None:
        num_prompts = len(self.embeddings)
        for field in ('labels', 'mask', 'groups'):
            if getattr(self, field).shape != (num_prompts,):
                raise ValueError(f'{field}: expected ({num_prompts},), got {tuple(getattr(self, field).shape)}')
        if self.negative.shape != (len(self.names),):
            raise ValueError(f'negative: expected ({len(self.names)},), got {tuple(self.negative.shape)}')
        if not bool(self.mask.any()):
            raise InputError('the prompt set is empty: give at least one box, class name or bank entry')

    @classmethod
    def from_classes(
        cls,
        embeddings: Tensor,
        names: Sequence[str],
        mask: Tensor | None = None,
        negative: Tensor | None = None,
    ) -> 'PromptSet':
        """One prompt per class, which attends only to itself: the form of visual prompts.

        Args:
            embeddings: (K, C), row ``i`` belongs to ``names[i]``.
            names: K class names.
            mask: (K,) True = offered. Default: all.
            negative: (K,) True = negative prompt. Default: none.

        Raises:
            InputError: no class is offered.
        """
        index = torch.arange(len(names), device=embeddings.device)
        valid = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
        hidden = torch.zeros_like(index, dtype=torch.bool) if negative is None else negative
        return cls(embeddings, tuple(names), index, valid, index.clone(), hidden)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def reported(self) -> Tensor:
        """(num_reported,) indices of the classes that are offered and are not negative."""
        offered = torch.zeros(self.num_classes, dtype=torch.bool, device=self.labels.device)
        offered[self.labels[self.mask & (self.labels >= 0)]] = True
        return (offered & ~self.negative).nonzero().flatten()

    def class_map(self) -> Tensor:
        """(K, num_classes): multiplying scores (..., K) by it averages the prompts of each class."""
        rows = (self.mask & (self.labels >= 0)).nonzero().flatten()
        weights = self.embeddings.new_zeros(len(self.embeddings), self.num_classes)
        weights[rows, self.labels[rows]] = 1
        return weights / weights.sum(0, keepdim=True).clamp(min=1)

    def class_embeddings(self) -> Tensor:
        """(num_classes, C): mean embedding of each class; zeros for a class that is not offered."""
        return self.class_map().t() @ self.embeddings

    def mix(self, other: 'PromptSet') -> 'PromptSet':
        """Average the class embeddings of two sets after L2 normalisation (text and visual prompts of one class).

        A class that only one of the sets has keeps that set's embedding. The result gets the mean of the two norms,
        because the classifier's scale lives in the norm of the prompts.
        """
        names = tuple(dict.fromkeys(self.names + other.names))
        rows, negative = [], []
        for name in names:
            found = [(s, s.names.index(name)) for s in (self, other) if name in s.names]
            vectors = torch.stack([s.class_embeddings()[i] for s, i in found])
            rows.append(F.normalize(vectors, dim=-1).mean(0) * vectors.norm(dim=-1).mean())
            negative.append(all(bool(s.negative[i]) for s, i in found))
        return PromptSet.from_classes(
            torch.stack(rows), names, negative=torch.tensor(negative, device=self.embeddings.device)
        )

    def to(self, *args, **kwargs) -> 'PromptSet':
        """Move every tensor; dtype arguments reach ``embeddings`` only."""
        embeddings = self.embeddings.to(*args, **kwargs)
        moved = {name: getattr(self, name).to(embeddings.device) for name in ('labels', 'mask', 'groups', 'negative')}
        return replace(self, embeddings=embeddings, **moved)


class PromptBatch(NamedTuple):
    """Prompts of a batch, padded to the largest set.

    Attributes:
        embeddings: (bs, K, C).
        mask: (bs, K) True = valid.
        groups: (bs, K) see :class:`PromptSet`; padding is in a group of its own.
    """

    embeddings: Tensor
    mask: Tensor
    groups: Tensor

    @classmethod
    def stack(cls, prompt_sets: Sequence[PromptSet]) -> 'PromptBatch':
        """Pad the prompt sets of a batch to one length."""
        longest = max(len(prompts.embeddings) for prompts in prompt_sets)

        def pad(tensor: Tensor, value: float) -> Tensor:
            missing = longest - len(tensor)
            return F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, missing), value=value)

        return cls(
            torch.stack([pad(p.embeddings, 0.0) for p in prompt_sets]),
            torch.stack([pad(p.mask, False) for p in prompt_sets]),
            torch.stack([pad(p.groups, -1) for p in prompt_sets]),
        )

    @classmethod
    def shared(cls, embeddings: Tensor, batch_size: int) -> 'PromptBatch':
        """The same K prompts (K, C) for every image; each attends only to itself."""
        num_prompts = len(embeddings)
        index = torch.arange(num_prompts, device=embeddings.device)
        return cls(
            embeddings.expand(batch_size, -1, -1),
            torch.ones_like(index, dtype=torch.bool).expand(batch_size, -1),
            index.expand(batch_size, -1),
        )

    def attention_mask(self) -> Tensor:
        """(bs, K, K) True = may attend: the prompts of one group; padding sees only itself."""
        same = self.groups[:, :, None] == self.groups[:, None, :]
        both = self.mask[:, :, None] & self.mask[:, None, :]
        itself = torch.eye(self.mask.shape[1], dtype=torch.bool, device=self.mask.device)
        return (same & both) | itself

    def position_ids(self) -> Tensor:
        """(bs, K) position of a prompt inside its group, from 0."""
        return self.attention_mask().tril(diagonal=-1).sum(-1)
