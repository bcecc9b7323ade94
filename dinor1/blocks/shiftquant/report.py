"""What a conversion to integers did to every layer of a model, and how much of the arithmetic it reaches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class LayerRecord:
    """What the conversion did to one layer.

    Attributes:
        name: Its name in the model.
        kind: Its class before the conversion.
        status: ``replaced`` or ``kept``.
        reason: One line: what it became, or why it stays.
    """

    name: str
    kind: str
    status: Literal['replaced', 'kept']
    reason: str

    def __str__(self) -> str:
        return f'{self.status:<8}  {self.name or "(the model)"}  {self.kind}: {self.reason}'


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one forward pass.

    Counted are matrix products, convolutions, attention, and four per number that is sampled from a feature map; what
    is done number by number (norms, activations, softmax) is not.

    Attributes:
        integer: By layer: those of integer products.
        floating: All others.
        integer_products: By layer: how many of output, input's and weight's gradient are integer products, 0 to 3.
    """

    integer: dict[str, int]
    floating: int
    integer_products: dict[str, int]

    @property
    def share(self) -> float:
        """Integer share of the forward pass, 0 to 1."""
        return sum(self.integer.values()) / self._total

    @property
    def training_share(self) -> float:
        """Integer share of forward and backward pass, with as many for each gradient as for the output, 0 to 1."""
        integer = sum(macs * self.integer_products[name] for name, macs in self.integer.items())
        return integer / (3 * self._total)

    @property
    def _total(self) -> int:
        return max(sum(self.integer.values()) + self.floating, 1)


@dataclass
class QuantReport:
    """Every layer with a weight that a conversion met, replaced or kept, with the reason.

    Attributes:
        bits: Of weights, activations and gradients.
        skip: The patterns of layers to keep.
        records: One per layer, in the model's order.
        macs: Filled in by :func:`count_macs`.
    """

    bits: tuple[int, int, int]
    skip: tuple[str, ...]
    records: list[LayerRecord] = field(default_factory=list)
    macs: MacCount | None = None

    def add(self, name: str, kind: str, status: Literal['replaced', 'kept'], reason: str) -> None:
        """Record one layer."""
        self.records.append(LayerRecord(name, kind, status, reason))

    def names(self, status: Literal['replaced', 'kept']) -> list[str]:
        """Names of the layers with this status."""
        return [record.name for record in self.records if record.status == status]

    def summary(self) -> str:
        """One line."""
        text = f'{len(self.names("replaced"))} layers in integers, {len(self.names("kept"))} kept, bits {self.bits}'
        return text if self.macs is None else f'{text}, {self.macs.share:.1%} of multiply-accumulates'

    def as_dict(self) -> dict[str, Any]:
        """What a result file needs."""
        names = dict(replaced=self.names('replaced'), kept=self.names('kept'))
        shares = {}
        if self.macs is not None:
            shares = dict(integer_macs=self.macs.share, integer_training_macs=self.macs.training_share)
        return dict(bits=self.bits, skip=self.skip, **names, **shares)

    def __iter__(self) -> Iterator[LayerRecord]:
        return iter(self.records)

    def __str__(self) -> str:
        return '\n'.join([self.summary(), *map(str, self.records)])
