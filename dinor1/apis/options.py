"""``--cfg-options KEY=VALUE``: overrides of a config on the command line."""

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class ConfigOptions(DictAction):
    """MMEngine's action, with an error of ``argparse`` for what is not ``KEY=VALUE``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[Any],
        option_string: str | None = None,
    ) -> None:
        for item in values:
            key, separator, _ = item.partition('=')
            if not separator or not key.strip():
                raise argparse.ArgumentError(self, f'expected KEY=VALUE, got {item!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets that do not match
            raise argparse.ArgumentError(self, str(error)) from None
