"""Names of the norms in configs."""

from torch import nn

from .evo_norm import EvoNormB0, EvoNormB1, EvoNormB2, EvoNormS0, EvoNormS1, EvoNormS2
from .fixed_std_norm import FixedStdLayerNorm
from .l1_norm import L1BatchNorm, L1LayerNorm
from .power_norm import PowerNorm
from .rms_norm import CRMSNorm, RMSNorm
from .token_batch_norm import TokenBatchNorm
from .unified_norm import UnifiedNorm

NORMS: dict[str, type[nn.Module]] = {
    'RMSNorm': RMSNorm,
    'CRMSNorm': CRMSNorm,
    'PN': PowerNorm,
    'UN': UnifiedNorm,
    'EvoNormB0': EvoNormB0,
    'EvoNormB1': EvoNormB1,
    'EvoNormB2': EvoNormB2,
    'EvoNormS0': EvoNormS0,
    'EvoNormS1': EvoNormS1,
    'EvoNormS2': EvoNormS2,
    'L1LN': L1LayerNorm,
    'L1BN': L1BatchNorm,
    'FixedStdLN': FixedStdLayerNorm,
}

# Baselines keep torch's treatment of empty batches, half precision and activation checkpointing.
BASELINES: dict[str, type[nn.Module]] = {'TokenBN': TokenBatchNorm}

_TORCH_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a norm of this package or of torch."""
    return isinstance(module, (*NORMS.values(), *_TORCH_NORMS))
