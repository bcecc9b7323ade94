"""Check that a neck fits the levels of a backbone."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dinor1.utils.errors import InputError


def check_neck_channels(backbone: nn.Module, neck: Mapping[str, Any]) -> None:
    """Compare ``in_channels`` of a neck with the channels of a backbone.

    Args:
        backbone: A backbone. A backbone without the attribute ``channels``, which
            :class:`~dinor1.models.backbones.TimmBackbone` has, is not checked.
        neck: Config of the neck: ``in_channels`` of all levels, or a number for a neck that reads only the last level.

    Raises:
        InputError: the channels differ.
    """
    # Skip backbones and necks that do not state their channels.
    channels, expected = getattr(backbone, 'channels', None), neck.get('in_channels')
    if channels is None or expected is None:
        return
    # A single number describes the last level, a list describes all levels.
    if isinstance(expected, int):
        fits, levels = expected == channels[-1], f'its last level has {channels[-1]} channels'
    else:
        fits, levels = list(expected) == list(channels), f'its levels have {list(channels)} channels'
    if not fits:
        raise InputError(
            f'model.neck.in_channels={expected} does not fit the backbone: {levels} and strides '
            f'{list(getattr(backbone, "strides", ()))}; set in_channels to these channels'
        )
