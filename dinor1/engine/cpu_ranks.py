"""Several processes ("ranks") without a GPU, which communicate through gloo.

MMEngine's launchers give every process a GPU (``torch.cuda.set_device``) and fail on a machine without one. They do
not replace an existing process group: :class:`dinor1.engine.runner.Runner` makes it before they run.
"""

import datetime
import os
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from mmengine.device import get_device

from dinor1.utils.errors import InputError

# Environment variables that torchrun sets and torch reads.
_VARIABLES = ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


def check_launcher(launcher: str) -> None:
    """Raise an error, before a run begins, if ``--launcher`` cannot work here.

    Raises:
        InputError: the processes were not started by torchrun, or the launcher needs GPUs and this machine has none.
    """
    missing = [name for name in _VARIABLES if name not in os.environ]
    if launcher == 'pytorch' and missing:
        raise InputError(
            f'--launcher pytorch: the environment has no {", ".join(missing)}; start the tool by torchrun, as '
            'tools/dist_train.sh and tools/dist_test.sh do, or leave the option out'
        )
    if launcher in ('slurm', 'mpi') and get_device() == 'cpu':
        raise InputError(
            f'--launcher {launcher}: gives every process a GPU, and there is none on this machine; without GPUs start '
            'the tool by torchrun, as tools/dist_train.sh and tools/dist_test.sh do'
        )


def join_cpu_ranks(dist_cfg: Mapping[str, Any]) -> None:
    """Join the process group that torchrun's environment variables describe.

    Args:
        dist_cfg: ``env_cfg.dist_cfg`` of a config. ``backend='nccl'`` needs GPUs, so gloo is used instead; ``timeout``
            is in seconds, as for MMEngine.
    """
    arguments = dict(dist_cfg)
    if arguments.get('backend', 'nccl') == 'nccl':
        arguments['backend'] = 'gloo'
    if arguments.get('timeout') is not None:
        arguments['timeout'] = datetime.timedelta(seconds=arguments['timeout'])
    dist.init_process_group(**arguments)
