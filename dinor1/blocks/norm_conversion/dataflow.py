"""Result of tracing a model: sources, the values that are sums of sources, and the readers of sources.

A value is described by its *sources*: the linear layers, embeddings, free parameters and norms that it is a sum of. A
value also has a *shadow* of the same shape, which tracks its channels through views, transpositions, windows and
padding by passing through the same functions. Each entry of the shadow is the number of its channel (from 1), or 0
where zeros were padded. Channels are intact if the shadow is 1, 2, ..., C along one axis and constant along all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

# Name of the source of tensors that the caller passes.
MODEL_INPUT = 'an input of the model, which no layer of the model could centre'


@dataclass(frozen=True)
class Use:
    """One way in which a source is read.

    Attributes:
        kind: ``linear`` and ``norm``: read along intact channels by a linear map, or by a norm over its full width.
            ``scale``: multiplied by a vector of parameters. ``sum``: added to or concatenated with another value.
            ``output``: returned by the model. ``other``: anything else.
        what: Description of the reader, for messages.
        name: Name of the reader, if it is a module.
        alone: Whether the value that was read is exactly this source, not scaled and without other sources.
        padded: Whether the value was padded with zeros.
        rows: Outputs of the linear map that read the source; None: all.
    """

    kind: Literal['linear', 'norm', 'scale', 'sum', 'output', 'other']
    what: str
    name: str | None = None
    alone: bool = True
    padded: bool = False
    rows: slice | None = None


@dataclass(eq=False)
class Source:
    """A term of the sums that values are made of.

    Attributes:
        kind: ``linear``, ``embedding``, ``parameter``, ``norm``; ``scaled``: a source times a vector of parameters;
            ``other``: a tensor of unknown origin.
        name: Name of the module or parameter; a description for ``other``.
        width: Number of channels.
        uses: Uses of the source, in order.
        inner: Source that a ``scaled`` source multiplies.
    """

    kind: Literal['linear', 'embedding', 'parameter', 'norm', 'scaled', 'other']
    name: str
    width: int
    uses: list[Use] = field(default_factory=list)
    inner: 'Source | None' = None


@dataclass(frozen=True)
class Value:
    """Known facts about a tensor.

    Attributes:
        sources: Terms of the sum.
        shadow: Channel numbers, see the module's docstring; the tensor's shape, float64.
        scaled: Whether positions were multiplied by factors.
        padded: Whether zeros may have been padded, even with width 0: another input may need more.
    """

    sources: frozenset[Source]
    shadow: Tensor
    scaled: bool = False
    padded: bool = False

    @property
    def alone(self) -> Source | None:
        """The source, if there is only one and it is not scaled."""
        return next(iter(self.sources)) if len(self.sources) == 1 and not self.scaled else None

    def channel_axis(self) -> int | None:
        """Axis (from the end) along which the channels are intact; None: no such axis."""
        widths = {source.width for source in self.sources if source.kind != 'other'}
        if len(widths) != 1:
            return None
        width = widths.pop()
        for axis in range(-1, -self.shadow.dim() - 1, -1):
            if self.shadow.shape[axis] == width:
                labels = channel_labels(self.shadow, axis)
                # The tolerance covers rounding in averages over positions.
                if bool((((self.shadow - labels).abs() < 1e-6) | (self.shadow == 0)).all()):
                    return axis
        return None


@dataclass
class Trace:
    """Dataflow of all example calls together.

    Attributes:
        sources: Sources by kind and name.
        inputs: Values that each norm and each linear map read, call by call, with the outputs that read them (None:
            all). A value of None is a tensor of unknown origin.
        branches: Modules that read one norm and return one linear map, as (norm, map) -> outermost module.
        called: Names of all modules that were called.
        fed: Norms that read an unchanged input of the model.
    """

    sources: dict[tuple[str, str], Source] = field(default_factory=dict)
    inputs: dict[str, list[tuple[slice | None, Value | None]]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    fed: set[str] = field(default_factory=set)

    def norm(self, name: str) -> Source | None:
        """Output of the norm ``name``; None: the example calls do not reach it."""
        return self.sources.get(('norm', name))

    def loose_use(self, name: str) -> str | None:
        """Reader of a parameter of the module ``name`` that does not call it, as in ``F.linear(x, table.weight)``."""
        for (kind, parameter), source in self.sources.items():
            if kind == 'parameter' and parameter.rpartition('.')[0] == name and source.uses:
                return source.uses[0].what
        return None


def channel_labels(like: Tensor, axis: int) -> Tensor:
    """Channel numbers from 1 along ``axis``, in a shape that broadcasts against ``like``."""
    numbers = torch.arange(1, like.shape[axis] + 1, dtype=torch.float64)
    return numbers.reshape(-1, *[1] * (-1 - axis))


def tensors_in(obj: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, including dataclasses and MMEngine's data elements."""
    if isinstance(obj, Tensor):
        yield obj
    elif isinstance(obj, dict) or hasattr(obj, '_data_fields'):
        for value in obj.values():
            yield from tensors_in(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            yield from tensors_in(value)
    elif hasattr(obj, '__dataclass_fields__') and not isinstance(obj, type):
        for name in obj.__dataclass_fields__:
            yield from tensors_in(getattr(obj, name, None))
