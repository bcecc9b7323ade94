"""What tells a model from its wrapper for distributed training."""

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """The model inside a wrapper of DDP or FSDP; a model without wrapper as it is."""
    return model.module if is_model_wrapper(model) else model
