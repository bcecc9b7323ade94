"""Report of a conversion to integers: every layer of a model, and the integer share of the arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class LayerRecord:
    """Result of the conversion of one layer.

    Attributes:
        name: Name in the model.
        kind: Class before the conversion.
        status: ``replaced`` or ``kept``.
        reason: One line: what the layer became, or why it was kept.
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

    Matrix products, convolutions, attention, and four per number sampled from a feature map are counted; elementwise
    operations (norms, activations, softmax) are not.

    Attributes:
        integer: Multiply-accumulates of integer products, by layer.
        floating: All other multiply-accumulates.
        integer_products: Number of integer products among output, input's and weight's gradient, 0 to 3, by layer.
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
        """Integer share of forward and backward pass, 0 to 1; each gradient counts as much as the output."""
        integer = sum(macs * self.integer_products[name] for name, macs in self.integer.items())
        return integer / (3 * self._total)

    @property
    def _total(self) -> int:
        return max(sum(self.integer.values()) + self.floating, 1)


@dataclass
class QuantReport:
    """All layers that a conversion considered, replaced or kept, with the reason.

    Attributes:
        bits: Bits of weights, activations and gradients.
        skip: Patterns of layers to keep.
        records: One record per layer, in the model's order.
        macs: Counts of :func:`count_macs`, if it was called.
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
        """Summary in one line."""
        text = f'{len(self.names("replaced"))} layers in integers, {len(self.names("kept"))} kept, bits {self.bits}'
        return text if self.macs is None else f'{text}, {self.macs.share:.1%} of multiply-accumulates'

    def as_dict(self) -> dict[str, Any]:
        """Contents for a result file."""
        names = dict(replaced=self.names('replaced'), kept=self.names('kept'))
        shares = {}
        if self.macs is not None:
            shares = dict(integer_macs=self.macs.share, integer_training_macs=self.macs.training_share)
        return dict(bits=self.bits, skip=self.skip, **names, **shares)

    def __iter__(self) -> Iterator[LayerRecord]:
        return iter(self.records)

    def __str__(self) -> str:
        return '\n'.join([self.summary(), *map(str, self.records)])
