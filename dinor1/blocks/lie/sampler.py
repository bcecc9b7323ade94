"""Schedule and seeds of the samples: the same on every replica, after a resume, and in every test."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from .matrix_group import MatrixGroup
from .samples import GroupSamples

Resample = Literal['always', 'train', 'never']
RESAMPLE: tuple[Resample, ...] = ('always', 'train', 'never')

# Separate counters, so that a validation between two training steps does not change the samples of the second.
TRAIN, EVAL = 0, 1


class GroupSampler(nn.Module):
    """Draws the samples of one layer, step by step.

    The draw depends only on (seed, layer, step, training or not), so that replicas with the same step count agree
    without communication. The counters are saved with the weights, so that a resumed run continues the same draws.

    Args:
        group: Group to draw from.
        n: Number of samples.
        resample: ``always``: new samples at every call, as published. ``train``: new samples in training, fixed ones in
            evaluation. ``never``: fixed samples.
        seed: None: a seed from torch's generator. In a distributed run all processes must then build the sampler and
            use the seed of the first process.
        layer: Index of the layer, for samplers that share a seed.
        n_test: Number of samples in evaluation; None: n. Not with ``resample='never'``.
        **options: Arguments of :meth:`~dinor1.blocks.lie.MatrixGroup.sample`.
    """

    def __init__(
        self,
        group: MatrixGroup,
        n: int,
        resample: Resample = 'always',
        seed: int | None = None,
        layer: int = 0,
        n_test: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        # Check the arguments.
        if resample not in RESAMPLE:
            raise ValueError(f'resample must be one of {", ".join(RESAMPLE)}; got {resample!r}')
        if n_test is not None and resample == 'never':
            raise ValueError(
                "n_test needs samples that are redrawn in training; with resample='never' there is one set"
            )
        self.n_test = n if n_test is None else n_test
        if seed is None:
            seed = _common_seed()
        self.group, self.n, self.resample, self.layer, self.options = group, n, resample, layer, options
        # Counters on the host, read without waiting for a device; the buffer copies them into checkpoints.
        self._seed, self._steps = seed, [0, 0]
        self.register_buffer('state', torch.tensor([seed, 0, 0]))
        self._fixed: dict[torch.device, GroupSamples] = {}
        self.draw(0, EVAL)  # bad options fail here, not in the first forward pass

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{self.group}, n={self.n}, resample={self.resample!r}, seed={self._seed}, layer={self.layer}'

    @torch.compiler.disable
    def forward(self) -> GroupSamples:
        """Samples for this call, float32, on the device of the module."""
        device = self.state.device
        # Return the fixed samples.
        if self.resample == 'never' or (self.resample == 'train' and not self.training):
            if device not in self._fixed:
                self._fixed[device] = self.draw(0, EVAL).to(device)
            return self._fixed[device]
        # Draw new samples and count the step.
        mode = TRAIN if self.training else EVAL
        samples = self.draw(self._steps[mode], mode)
        self._steps[mode] += 1
        self.state[1 + mode] += 1
        return samples.to(device, non_blocking=True)

    def draw(self, step: int, mode: int = TRAIN) -> GroupSamples:
        """Samples of one step, on CPU; changes no state. ``mode`` is :data:`TRAIN` or :data:`EVAL`."""
        generator = torch.Generator().manual_seed(_mix(self._seed, self.layer, step, mode))
        n = self.n_test if mode == EVAL else self.n
        # Matrix decompositions do not support half precision, and inexact samples break equivariance.
        with torch.autocast('cpu', enabled=False):
            return self.group.sample(n, generator, dtype=torch.float32, **self.options)

    def reseed(self, seed: int) -> None:
        """Restart from another seed; fixed samples change too."""
        self._seed, self._steps = seed, [0, 0]
        self.state.copy_(torch.tensor([seed, 0, 0]))
        self._fixed.clear()

    def host_state(self) -> tuple[int, ...]:
        """Numbers of draws in training and in evaluation, for :meth:`set_host_state`; the buffer is not included."""
        return tuple(self._steps)

    def set_host_state(self, state: tuple[int, ...]) -> None:
        """Continue after the draws of :meth:`host_state`."""
        self._steps = list(state)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seed, *self._steps = self.state.tolist()
        self._fixed.clear()


def resample(model: nn.Module, seed: int) -> None:
    """Give every sampler in ``model`` new samples that depend on ``seed``, to repeat an evaluation."""
    for module in model.modules():
        if isinstance(module, GroupSampler):
            module.reseed(seed)


def _common_seed() -> int:
    """A seed from torch's generator, shared by all processes, whose generators may differ."""
    seed = [int(torch.randint(2**31, ()))]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(seed)
    return seed[0]


def _mix(*numbers: int) -> int:
    """Mix numbers into one 63-bit seed with SplitMix64, so that similar numbers give unrelated draws."""
    state = 0
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
