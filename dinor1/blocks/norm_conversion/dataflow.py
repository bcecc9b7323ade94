"""The result of tracing a model: sources, the values that are sums of them, and what reads them.

A value is described by its *sources*: the linear layers, embeddings, free parameters and norms that it is a sum of. To
know where its channels are after views, transpositions, windows and padding, it has a *shadow* of the same shape, which
went through the same functions: it holds the number of the channel (from 1) at every entry, and 0 where zeros were
padded. Channels are intact where the shadow is 1, 2, ..., C along one axis and constant along all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

# Name of the source of a tensor that the caller passes.
MODEL_INPUT = "the model's own input, which none of its layers writes and could centre"


@dataclass(frozen=True)
class Use:
    """One way in which a source is read.

    Attributes:
        kind: ``linear`` and ``norm``: read along intact channels by a linear map, by a norm over its full width.
            ``scale``: multiplied by a vector of parameters. ``sum``: added to, or joined with, something else.
            ``output``: returned by the model. ``other``: anything else.
        what: Description of the reader, for messages.
        name: Name of the reading module, where it is one.
        alone: Whether the value that was read is this source and nothing else, not even scaled.
        padded: Whether zeros were padded to it.
        rows: The outputs of the linear map that read it; None: all.
    """

    kind: Literal['linear', 'norm', 'scale', 'sum', 'output', 'other']
    what: str
    name: str | None = None
    alone: bool = True
    padded: bool = False
    rows: slice | None = None


@dataclass(eq=False)
class Source:
    """Something that values are sums of.

    Attributes:
        kind: ``linear``, ``embedding``, ``parameter``, ``norm``; ``scaled``: a source times a vector of parameters;
            ``other``: a tensor of unknown origin.
        name: Name of the module or parameter; for ``other`` a description.
        width: Channels.
        uses: Its readers, in order.
        inner: What a ``scaled`` source multiplies.
    """

    kind: Literal['linear', 'embedding', 'parameter', 'norm', 'scaled', 'other']
    name: str
    width: int
    uses: list[Use] = field(default_factory=list)
    inner: 'Source | None' = None


@dataclass(frozen=True)
class Value:
    """What is known of a tensor.

    Attributes:
        sources: What it is a sum of.
        shadow: See the module's text; the tensor's shape, float64.
        scaled: Whether positions were multiplied by factors.
        padded: Whether it went through padding with zeros, even of width 0: another input may need more.
    """

    sources: frozenset[Source]
    shadow: Tensor
    scaled: bool = False
    padded: bool = False

    @property
    def alone(self) -> Source | None:
        """The source, if there is but one and it is not scaled."""
        return next(iter(self.sources)) if len(self.sources) == 1 and not self.scaled else None

    def channel_axis(self) -> int | None:
        """The axis (from the end) along which the channels are intact; None: there is none."""
        widths = {source.width for source in self.sources if source.kind != 'other'}
        if len(widths) != 1:
            return None
        width = widths.pop()
        for axis in range(-1, -self.shadow.dim() - 1, -1):
            if self.shadow.shape[axis] == width:
                labels = channel_labels(self.shadow, axis)
                # Averages over positions round.
                if bool((((self.shadow - labels).abs() < 1e-6) | (self.shadow == 0)).all()):
                    return axis
        return None


@dataclass
class Trace:
    """What was seen in all example calls together.

    Attributes:
        sources: By kind and name.
        inputs: What each norm and each linear map read, call by call, and for which of its outputs (None: all). A value
            of None is a tensor of unknown origin.
        branches: Modules that read one norm and return one linear map, as (norm, map) -> module, the outermost.
        called: Names of all modules that were called.
        fed: Norms that read an input of the model, as it was passed.
    """

    sources: dict[tuple[str, str], Source] = field(default_factory=dict)
    inputs: dict[str, list[tuple[slice | None, Value | None]]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    fed: set[str] = field(default_factory=set)

    def norm(self, name: str) -> Source | None:
        """The output of the norm called ``name``; None: no example called it."""
        return self.sources.get(('norm', name))

    def loose_use(self, name: str) -> str | None:
        """What reads a parameter of the module ``name`` without calling it, as ``F.linear(x, table.weight)`` does."""
        for (kind, parameter), source in self.sources.items():
            if kind == 'parameter' and parameter.rpartition('.')[0] == name and source.uses:
                return source.uses[0].what
        return None


def channel_labels(like: Tensor, axis: int) -> Tensor:
    """Channel numbers from 1 along ``axis``, in a shape that broadcasts against ``like``."""
    numbers = torch.arange(1, like.shape[axis] + 1, dtype=torch.float64)
    return numbers.reshape(-1, *[1] * (-1 - axis))


def tensors_in(obj: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, dataclasses and MMEngine's data elements included."""
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
