"""Mixed precision on a CPU, which MMEngine's wrapper does not support."""

import contextlib
from collections.abc import Iterator

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from dinor1.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUBFloat16OptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper that runs the forward pass on a CPU under autocast to bfloat16.

    bfloat16 has the range of float32, so losses need no scaling. It is faster on processors that multiply matrices in
    bfloat16 (AMX, AVX-512 BF16), and for large models.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Return the context for a forward pass of ``model``."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
