"""Mixed precision on a CPU, where MMEngine's wrapper refuses to work."""

import contextlib
from collections.abc import Iterator

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from dinor1.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUBFloat16OptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper with the forward pass under autocast in bfloat16, on a CPU.

    bfloat16 has the range of float32, so that losses need no scaling. It pays on processors that multiply matrices in
    bfloat16 (AMX, AVX-512 BF16), and for large models.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of a forward pass of ``model``."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
