"""Models and their wrappers for distributed training."""

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """The model inside a DDP or FSDP wrapper; a model without a wrapper is returned as it is."""
    return model.module if is_model_wrapper(model) else model
