"""Residual streams: the layers that write to the sum, and the norms that read it.

Z. Jiang, J. Gu, H. Zhu and D. Z. Pan, arXiv 2305.14858, section 3: since ``LayerNorm(x + c 1) = LayerNorm(x)``, a
stream that is only read through LayerNorm over its full width can be replaced by its centred version ``P x`` with ``P =
I - 11^T / d``, for which LayerNorm equals RMSNorm. ``P x`` is free if every term of the sum comes from a linear layer,
an embedding or a free parameter: their weights are centred once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .dataflow import MODEL_INPUT, Source, Trace
from .folding import is_layer_norm, reader_conflict
from .linear_maps import output_map

# One explicit centring costs about as much as it saves in one norm.
_NORMS_WORTH_A_CENTRING = 2


@dataclass(frozen=True)
class Branch:
    """One residual branch: a norm reads the stream, and a linear layer writes to it.

    Attributes:
        norm: The LayerNorm; None if the branch starts elsewhere.
        readers: All linear layers that read the norm's output; empty if it has other readers.
        out: The linear layer whose output is added to the stream.
        scale: The LayerScale module or parameter between ``out`` and the stream, if any.
        module: A module around the branch, which gets the norm's output and returns that of ``out``, if any. Needed to
            compress a stream around code that derives its width from its input.
    """

    norm: Any
    readers: tuple = ()
    out: Any = None
    scale: Any = None
    module: Any = None


@dataclass(frozen=True)
class Exit:
    """A norm that reads the stream without writing to it, such as the final norm; ``readers`` as in :class:`Branch`."""

    norm: Any
    readers: tuple = ()


@dataclass(frozen=True)
class ResidualStream:
    """A stream of vectors of ``width`` entries, described by the names of its writers and readers.

    Modules and parameters may be given as objects or by name; converters use names.

    Attributes:
        width: Number d of channels.
        entries: Linear layers, convolutions, embeddings and parameters (positions, class token) that the stream starts
            from, and other writers. A LayerNorm here is followed by one explicit centring.
        branches: The residual branches.
        exits: Norms that only read the stream.
    """

    width: int
    entries: tuple = ()
    branches: tuple[Branch, ...] = ()
    exits: tuple[Exit, ...] = ()

    def norms(self) -> dict[str, tuple]:
        """Every norm that reads the stream, with its linear readers."""
        return {item.norm: item.readers for item in (*self.branches, *self.exits) if item.norm is not None}

    def writers(self) -> dict[str, str | None]:
        """Everything that writes to the stream, with its LayerScale."""
        return {**dict.fromkeys(self.entries), **{b.out: b.scale for b in self.branches if b.out is not None}}


def named_streams(model: nn.Module, streams: Iterable[ResidualStream]) -> list[ResidualStream]:
    """Replace modules and parameters in ``streams`` by names.

    Raises:
        ValueError: an item is not part of ``model``, a norm is not a LayerNorm over exactly the stream's width, or a
            writer is not a linear map, embedding or parameter.
    """
    # Find the names of all parameters and modules.
    names = {id(item): name for name, item in [*model.named_parameters(), *model.named_modules()]}

    def name_of(item: Any) -> str | None:
        if item is None or isinstance(item, str):
            return item
        if id(item) not in names:
            raise ValueError(f'ResidualStream: {type(item).__name__} {item!r:.60} is not part of the model')
        return names[id(item)]

    # Name every part of each stream, and check the stream.
    result = []
    for stream in streams:
        branches = tuple(
            Branch(name_of(b.norm), tuple(map(name_of, b.readers)), name_of(b.out), name_of(b.scale), name_of(b.module))
            for b in stream.branches
        )
        exits = tuple(Exit(name_of(e.norm), tuple(map(name_of, e.readers))) for e in stream.exits)
        named = ResidualStream(stream.width, tuple(map(name_of, stream.entries)), branches, exits)
        _check(model, named)
        result.append(named)
    return result


def _check(model: nn.Module, stream: ResidualStream) -> None:
    # The norms must have the width of the stream.
    for name in stream.norms():
        norm = model.get_submodule(name)
        if not is_layer_norm(norm) or tuple(norm.normalized_shape) != (stream.width,):
            raise ValueError(f'ResidualStream: {name} is not a LayerNorm over exactly {stream.width} channels: {norm}')
    # The writers must have outputs that can be centred.
    for name in stream.writers():
        if _layer_norm(model, name) is None and output_map(model, name) is None:
            raise ValueError(f'ResidualStream: {name} is not a plain linear layer, embedding, parameter or LayerNorm')


def _layer_norm(model: nn.Module, name: str) -> nn.LayerNorm | None:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None  # a parameter
    return module if isinstance(module, nn.LayerNorm) else None


def find_streams(model: nn.Module, trace: Trace) -> tuple[list[ResidualStream], dict[str, str]]:
    """Find the streams of ``model`` whose LayerNorms can become RMSNorms with equal outputs.

    Args:
        model: The traced model.
        trace: Dataflow of the model, traced with ``nn.LayerNorm`` as the norm.

    Returns:
        The streams, and the reason for every LayerNorm outside of them.
    """
    finder = _StreamFinder(model, trace)
    return finder.streams(), finder.reasons


class _StreamFinder:
    """Sorts the LayerNorms of a traced model into streams, or records the reason why not."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.model, self.trace = model, trace
        self.reasons: dict[str, str] = {}
        self.inputs: dict[str, list[Source]] = {}
        # Find the inputs of every LayerNorm, or the reason why it cannot be converted.
        for name, norm in model.named_modules():
            if isinstance(norm, nn.LayerNorm):
                self._judge(name, norm)
        self._drop_costly_centrings()

    def _judge(self, name: str, norm: nn.LayerNorm) -> None:
        reason = self._reason_against(name, norm)
        if reason is None:
            values = [value for _, value in self.trace.inputs[name]]
            self.inputs[name] = list(dict.fromkeys(s for value in values for s in _ordered(self.trace, value.sources)))
        else:
            self.reasons[name] = reason

    def _reason_against(self, name: str, norm: nn.LayerNorm) -> str | None:
        # Check the norm itself.
        if not is_layer_norm(norm):
            return 'not a LayerNorm over the last axis alone'
        if name not in self.trace.inputs:
            return 'the example inputs do not reach it'
        loose = self.trace.loose_use(name)
        if loose is not None:
            return f'its parameters are also read by {loose}'
        # Check every input of the norm, and every source of the input.
        for _, value in self.trace.inputs[name]:
            if value is None:
                if name in self.trace.fed:
                    return f'its input is {MODEL_INPUT}'
                return 'its input is not a sum of linear layers, embeddings and parameters'
            if value.channel_axis() != -1:
                return 'its input concatenates several vectors, whose means differ: it is not centred with them'
            for source in _ordered(self.trace, value.sources):
                against = self._why_not_centred(source)
                if against is not None:
                    return against
        return None

    def _why_not_centred(self, source: Source) -> str | None:
        """Reason why ``source`` cannot be made zero-mean over channels; None: it is or can be."""
        if source.kind == 'other':
            return f'its input contains {source.name}'
        if source.kind == 'norm' and self._is_zero_mean(source):
            return None
        # Only norms and the stream itself may read the source.
        what = f'its input contains the output of {source.name}'
        for use in source.uses:
            if use.kind not in ('norm', 'sum'):
                post = source.kind == 'norm' and use.kind == 'linear'
                return f'{what}, which {use.what} reads as well' + (': a Post-LN layer' if post else '')
        # The weights of the source must be its own.
        if source.kind == 'scaled':
            inner = source.inner
            if inner.kind != 'linear' or any(use.kind != 'scale' for use in inner.uses):
                return f'{what}, whose scale cannot be folded'
            source = inner
        if source.kind in ('linear', 'embedding', 'parameter'):
            loose = self.trace.loose_use(source.name)
            if loose is not None:
                return f'{what}, whose weight is also read by {loose}'
            if output_map(self.model, source.name) is None:
                return f'{what}, whose weight is recomputed in every forward pass'
        return None

    def _is_zero_mean(self, source: Source) -> bool:
        return self.model.get_submodule(source.name).weight is None

    def _drop_costly_centrings(self) -> None:
        """Leave out norms that need an explicit centring (an affine LayerNorm writes to them) for too little gain."""
        for source in {s for sources in self.inputs.values() for s in sources if s.kind == 'norm'}:
            reading = [name for name, sources in self.inputs.items() if source in sources]
            if not self._is_zero_mean(source) and len(reading) < _NORMS_WORTH_A_CENTRING:
                for name in reading:
                    self.reasons[name] = (
                        f'its input contains the output of {source.name}, and centring it would not pay'
                    )
                    del self.inputs[name]

    def streams(self) -> list[ResidualStream]:
        # Merge norms with common sources into one stream.
        groups: list[tuple[set[Source], list[str]]] = []
        for name, sources in self.inputs.items():
            touching = [group for group in groups if group[0] & set(sources)]
            merged = (set(sources).union(*(g[0] for g in touching)), [*(n for g in touching for n in g[1]), name])
            groups = [group for group in groups if group not in touching] + [merged]
        return [self._describe(*group) for group in groups]

    def _describe(self, sources: set[Source], norms: list[str]) -> ResidualStream:
        width = self.model.get_submodule(norms[0]).normalized_shape[0]
        # Make a branch of each norm with a writer after it, and an exit of each other norm.
        writers = {(source.inner or source).name: source for source in _ordered(self.trace, sources)}
        branches, exits, taken = [], [], set()
        for norm in [name for name in self.inputs if name in norms]:
            readers = self._readers(norm)
            outs = [out for (read, out) in self.trace.branches if read == norm and out in writers]
            if not outs:
                exits.append(Exit(norm, readers))
                continue
            out = outs[0]
            taken.add(out)
            scale = None if writers[out].inner is None else writers[out].name
            branches.append(Branch(norm, readers, out, scale, self.trace.branches[norm, out]))
        # Make entries of the remaining writers.
        entries = []
        for out, source in writers.items():
            if out in taken or (source.kind == 'norm' and self._is_zero_mean(source)):
                continue
            if source.inner is None:
                entries.append(out)
            else:
                # A scaled writer without a norm before it is a branch with an unknown start.
                branches.append(Branch(None, (), out, source.name))
        return ResidualStream(width, tuple(entries), tuple(branches), tuple(exits))

    def _readers(self, norm: str) -> tuple[str, ...]:
        """Linear readers that can absorb the norm's affine part; empty if anything else reads the norm."""
        uses = self.trace.norm(norm).uses
        for use in uses:
            if use.kind != 'linear' or not use.alone or use.padded or use.rows is not None:
                return ()
            if reader_conflict(self.trace, use.name, None, norm) is not None:
                return ()
        return tuple(dict.fromkeys(use.name for use in uses))


def _ordered(trace: Trace, sources: Iterable[Source]) -> list[Source]:
    """Sort ``sources`` in the order in which the model computes them."""
    wanted = set(sources)
    return [source for source in trace.sources.values() if source in wanted]


class Centre(nn.Module):
    """Subtracts the mean over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """Centre a tensor of any shape; keeps shape and dtype."""
        return x - x.mean(-1, keepdim=True)


class CentredParameter(nn.Module):
    """Parametrization that centres a parameter along ``axis`` in every forward pass."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, parameter: Tensor) -> Tensor:
        """Centre a parameter of any shape."""
        return parameter - parameter.mean(self.axis, keepdim=True)
