"""The prompts of one image, and of one batch.

Boxes on images, class names and banks on disk are all converted to a :class:`PromptSet`; the detector does not depend
on the source of a prompt. A text prompt has one embedding per token and a visual prompt one embedding per class, so
that a class has one or more rows of ``embeddings``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.utils.class_names import class_key, distinct_names
from dinor1.utils.errors import InputError


@dataclass(frozen=True)
class PromptSet:
    """Prompts offered to one image.

    Attributes:
        embeddings: (K, C), one row per prompt.
        names: Names of the classes; label ``i`` of a prediction means ``names[i]``.
        labels: (K,) class index of each prompt; -1: the prompt takes part in the attention but belongs to no class,
            such as a separator of a tokenised text.
        mask: (K,) True = valid, False = not offered to the detector.
        groups: (K,) group index; in the encoder, prompts attend only to the prompts of their own group.
        negative: (num_classes,) True = the class is searched for, but its detections are not reported.
        visual: Whether all embeddings are those of boxes; False: some come from names, or are mixed with names.

    Raises:
        ValueError: the fields have inconsistent shapes.
        InputError: no prompt is valid.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    labels: Tensor
    mask: Tensor
    groups: Tensor
    negative: Tensor
    visual: bool = True

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
        """One prompt per class, each attending only to itself, as visual prompts do.

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

    @classmethod
    def from_exemplars(cls, embeddings: Tensor, labels: Tensor, names: Sequence[str]) -> 'PromptSet':
        """One prompt per class, the mean of its exemplars; classes without exemplars are not offered.

        Args:
            embeddings: (n, C), one row per exemplar.
            labels: (n,) indices into ``names``.
            names: K class names.

        Raises:
            InputError: there is no exemplar.
        """
        member = (labels[None] == torch.arange(len(names), device=labels.device)[:, None]).to(embeddings.dtype)
        counts = member.sum(1)
        return cls.from_classes(member @ embeddings / counts.clamp(min=1)[:, None], names, mask=counts > 0)

    @classmethod
    def nothing(cls, names: Sequence[str], embeddings: Tensor) -> 'PromptSet':
        """Prompts that search for nothing: one zero embedding that belongs to no class.

        Args:
            names: Class names; none is offered.
            embeddings: Tensor (..., C) that gives width, dtype and device of the result.
        """
        row = embeddings.new_zeros(1, embeddings.shape[-1])
        label = torch.full((1,), -1, device=row.device)
        hidden = torch.zeros(len(names), dtype=torch.bool, device=row.device)
        return cls(row, tuple(names), label, torch.ones_like(label, dtype=torch.bool), label.clone(), hidden)

    @classmethod
    def concat(cls, sets: Sequence['PromptSet']) -> 'PromptSet':
        """Join the classes of several sets, whose class names must differ.

        Rows whose group contains no class, such as the start and end tokens of a text, are the same in every text and
        are kept from the first set only.

        Raises:
            ValueError: a class name occurs in more than one set.
        """
        names = tuple(name for s in sets for name in s.names)
        if len(set(names)) != len(names):
            raise ValueError('concat: a class name is in more than one of the sets')
        # Renumber the classes and groups of each set so that they follow those of the sets before it.
        parts, num_classes, num_groups = [], 0, 0
        for i, s in enumerate(sets):
            kept = slice(None) if i == 0 else ~s._frame()
            labels, groups = s.labels[kept], s.groups[kept]
            parts.append(
                (
                    s.embeddings[kept],
                    torch.where(labels < 0, labels, labels + num_classes),
                    s.mask[kept],
                    torch.where(groups < 0, groups, groups + num_groups),
                    s.negative,
                )
            )
            num_classes, num_groups = num_classes + len(s.names), num_groups + int(s.groups.max()) + 1
        # Concatenate the fields.
        embeddings, labels, mask, groups, negative = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        visual = all(s.visual for s in sets)
        return cls(embeddings, names, labels, mask, groups, negative, visual)

    def split(self, max_classes: int) -> list['PromptSet']:
        """Split into sets of at most ``max_classes`` offered classes; each keeps the names of all classes.

        Classes keep their order. All rows of a class, and the other rows of its group (the separator after its name),
        stay together. Rows whose group contains no class are repeated in every part.
        """
        # Return early if one part suffices.
        offered = self.mask & (self.labels >= 0)
        classes = self.labels[offered].unique()
        if len(classes) <= max_classes:
            return [self]
        # Give each part its classes with their groups, and the start and end tokens of the text.
        frame = self._frame()
        parts = []
        for some in classes.split(max_classes):
            groups = self.groups[offered & torch.isin(self.labels, some)]
            rows = frame | (self.mask & torch.isin(self.groups, groups))
            fields = {name: getattr(self, name)[rows] for name in ('embeddings', 'labels', 'mask', 'groups')}
            parts.append(replace(self, **fields))
        return parts

    def _frame(self) -> Tensor:
        """(K,) True = valid row whose group contains no row of a class, such as the start and end tokens of a text."""
        with_class = self.groups[self.mask & (self.labels >= 0)]
        return self.mask & (self.labels < 0) & ~torch.isin(self.groups, with_class)

    @property
    def num_classes(self) -> int:
        """Number of classes, offered or not."""
        return len(self.names)

    @property
    def offered(self) -> Tensor:
        """(num_classes,) True = the class has a valid prompt."""
        offered = torch.zeros(self.num_classes, dtype=torch.bool, device=self.labels.device)
        offered[self.labels[self.mask & (self.labels >= 0)]] = True
        return offered

    @property
    def reported(self) -> Tensor:
        """(num_reported,) indices of the classes that are offered and are not negative."""
        return (self.offered & ~self.negative).nonzero().flatten()

    def class_map(self) -> Tensor:
        """Weights (K, num_classes): ``scores (..., K) @ weights`` is the mean score of the prompts of each class."""
        rows = (self.mask & (self.labels >= 0)).nonzero().flatten()
        weights = self.embeddings.new_zeros(len(self.embeddings), self.num_classes)
        weights[rows, self.labels[rows]] = 1
        return weights / weights.sum(0, keepdim=True).clamp(min=1)

    def class_embeddings(self) -> Tensor:
        """Mean embedding of each class, (num_classes, C); zeros for a class that is not offered."""
        return self.class_map().t() @ self.embeddings

    def mix(self, other: 'PromptSet') -> 'PromptSet':
        """Average the class embeddings of two sets after L2 normalisation, for example text and visual prompts.

        The embedding of a class offered by only one of the sets is unchanged; a class offered by neither set is not
        offered. The average is scaled to the mean of the two norms, because the logits of a class scale with the norm
        of its prompt. Names that differ only in case or in surrounding blanks are one class; the first spelling is
        kept.
        """
        # List the classes of both sets.
        names = distinct_names(self.names + other.names)
        mine, theirs = self._offers(), other._offers()
        # Average class by class. A class is negative only if every set that offers it marks it as negative.
        rows, mask, negative = [], [], []
        for name in names:
            found = [offer for offers in (mine, theirs) for offer in offers.get(class_key(name), ())]
            vectors = torch.stack([vector for vector, _ in found] or [torch.zeros_like(self.embeddings[0])])
            rows.append(F.normalize(vectors, dim=-1).mean(0) * vectors.norm(dim=-1).mean())
            mask.append(bool(found))
            negative.append(bool(found) and all(hidden for _, hidden in found))
        device = self.embeddings.device
        mixed = PromptSet.from_classes(
            torch.stack(rows), names, torch.tensor(mask, device=device), torch.tensor(negative, device=device)
        )
        return replace(mixed, visual=self.visual and other.visual)

    def _offers(self) -> dict[str, list[tuple[Tensor, bool]]]:
        """Embedding (C,) of each offered class, and whether it is negative, by the key of the class's name."""
        offers: dict[str, list[tuple[Tensor, bool]]] = {}
        entries = zip(self.names, self.class_embeddings(), self.negative.tolist(), self.offered.tolist(), strict=True)
        for name, embedding, hidden, offered in entries:
            if offered:
                offers.setdefault(class_key(name), []).append((embedding, hidden))
        return offers

    def to(self, *args, **kwargs) -> 'PromptSet':
        """Move all tensors, with the arguments of ``Tensor.to``; a dtype applies to ``embeddings`` only."""
        embeddings = self.embeddings.to(*args, **kwargs)
        if embeddings is self.embeddings:
            return self
        moved = {name: getattr(self, name).to(embeddings.device) for name in ('labels', 'mask', 'groups', 'negative')}
        return replace(self, embeddings=embeddings, **moved)


class PromptBatch(NamedTuple):
    """Prompts of a batch, padded to the size K of the largest set.

    Attributes:
        embeddings: (bs, K, C), zeros at padding.
        mask: (bs, K) True = valid.
        groups: (bs, K) group index, see :class:`PromptSet`; -1 at padding.
    """

    embeddings: Tensor
    mask: Tensor
    groups: Tensor

    @classmethod
    def stack(cls, prompt_sets: Sequence[PromptSet]) -> 'PromptBatch':
        """Pad the prompt sets of a batch to the same size."""
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
    def shared(cls, embeddings: Tensor, batch_size: int, mask: Tensor | None = None) -> 'PromptBatch':
        """Prompts of the same K classes for every image, each attending only to itself.

        Args:
            embeddings: (K, C) for all images, or (batch_size, K, C).
            batch_size: Number of images.
            mask: (batch_size, K) True = offered to the image, at least one prompt to each. Default: all.
        """
        index = torch.arange(embeddings.shape[-2], device=embeddings.device)
        return cls(
            embeddings.expand(batch_size, -1, -1),
            torch.ones_like(index, dtype=torch.bool).expand(batch_size, -1) if mask is None else mask,
            index.expand(batch_size, -1),
        )

    def attention_mask(self) -> Tensor:
        """(bs, K, K) True = may attend: valid prompts of the same group, and every row, even padding, to itself."""
        same = self.groups[:, :, None] == self.groups[:, None, :]
        both = self.mask[:, :, None] & self.mask[:, None, :]
        itself = torch.eye(self.mask.shape[1], dtype=torch.bool, device=self.mask.device)
        return (same & both) | itself

    def position_ids(self) -> Tensor:
        """(bs, K) position of each prompt within its group, counted from 0."""
        return self.attention_mask().tril(diagonal=-1).sum(-1)
