"""Report of what a converter did to every norm of a model, and why."""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NormRecord:
    """Result of the conversion of one norm.

    Attributes:
        name: Name in the model, as in ``named_modules()``; empty for the model itself.
        kind: Class before the conversion.
        status: ``converted`` or ``kept``.
        reason: One line: what the norm became, or what prevents the conversion.
        asked: False for a norm that the converter was not asked to convert.
    """

    name: str
    kind: str
    status: Literal['converted', 'kept']
    reason: str
    asked: bool = True

    def __str__(self) -> str:
        return f'{self.status:<9}  {self.name or "(the model)"}  {self.kind}: {self.reason}'


@dataclass
class ConversionReport:
    """All norms of a model, converted or kept, with the reason.

    A converter fills it in and stores it on the model with :meth:`attach`::

        model = replace_norm(model, cfg=dict(type='RMSNorm'))
        print(model.norm_report)

    Attributes:
        converter: Name of the converter.
        records: One record per norm, in the model's order.
    """

    converter: str
    records: list[NormRecord] = field(default_factory=list)

    def converted(self, name: str, module: nn.Module, reason: str) -> None:
        """Record that the norm ``module`` with this name was converted; ``reason`` says into what."""
        self._add(NormRecord(name, type(module).__name__, 'converted', reason))

    def kept(self, name: str, module: nn.Module, reason: str, asked: bool = True) -> None:
        """Record that the norm ``module`` with this name was kept; ``reason`` says why."""
        self._add(NormRecord(name, type(module).__name__, 'kept', reason, asked))

    def _add(self, record: NormRecord) -> None:
        if any(other.name == record.name for other in self.records):
            raise ValueError(f'{self.converter}: the norm {record.name!r} is reported twice')
        self.records.append(record)

    def names(self, status: Literal['converted', 'kept']) -> list[str]:
        """Names of the norms with this status."""
        return [record.name for record in self.records if record.status == status]

    def attach(self, model: nn.Module) -> nn.Module:
        """Set ``model.norm_report`` to this report, log a summary, and return ``model``.

        The summary is a warning if a norm was kept that the converter was asked to convert. If no norm was converted,
        it is a ``UserWarning`` with the first reason.
        """
        model.norm_report = self
        # Warn if all requested norms were kept; log a summary otherwise.
        refused = [record for record in self.records if record.status == 'kept' and record.asked]
        if refused and not self.names('converted'):
            first = refused[0]
            warnings.warn(
                f'{self.converter}: none of {len(self)} norms converted, the model did not change (model.norm_report '
                f'says why); {first.name or "the model"}: {first.reason}',
                stacklevel=3,
            )
        else:
            logger.log(logging.WARNING if refused else logging.INFO, self.summary())
        return model

    def summary(self) -> str:
        """One line: how many were converted, how many kept."""
        converted, kept = len(self.names('converted')), len(self.names('kept'))
        return f'{self.converter}: {converted} norms converted, {kept} kept (model.norm_report says why)'

    def __getitem__(self, name: str) -> NormRecord:
        """Record of the norm ``name``.

        Raises:
            KeyError: there is no norm of that name.
        """
        for record in self.records:
            if record.name == name:
                return record
        raise KeyError(f'{self.converter} found no norm {name!r}; it found {[r.name for r in self.records]}')

    def __iter__(self) -> Iterator[NormRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return '\n'.join([self.summary(), *map(str, self.records)])
