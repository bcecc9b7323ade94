"""When samples are drawn, and from which seed: the same on every replica, after a resume, and at every test."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from .matrix_group import MatrixGroup
from .samples import GroupSamples

Resample = Literal['always', 'train', 'never']
RESAMPLE: tuple[Resample, ...] = ('always', 'train', 'never')

# Validation between two training steps must not change the samples of the second.
TRAIN, EVAL = 0, 1


class GroupSampler(nn.Module):
    """Draws the samples of one layer, step by step.

    The draw is a function of (seed, layer, step, training or not) alone, so that replicas that count the same steps
    agree without communication. The counters are saved with the weights: a resumed run continues with the same draws.

    Args:
        group: Group to draw from.
        n: Number of samples.
        resample: ``always``: a fresh set at every call, as published. ``train``: fresh in training, in evaluation
            always the same. ``never``: always the same.
        seed: None draws one from torch's generator; in a distributed run, where all processes must then build the
            sampler, it is the first process's.
        layer: Number of the layer, for samplers that share a seed.
        n_test: Number of samples in evaluation; None: n. Only where evaluation has samples of its own.
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
        # On the host, where reading them makes no device wait; the buffer is their copy in checkpoints.
        self._seed, self._steps = seed, [0, 0]
        self.register_buffer('state', torch.tensor([seed, 0, 0]))
        self._fixed: dict[torch.device, GroupSamples] = {}
        self.draw(0, EVAL)  # bad options fail here, not in the first forward

    def extra_repr(self) -> str:
        """The settings that ``repr`` shows."""
        return f'{self.group}, n={self.n}, resample={self.resample!r}, seed={self._seed}, layer={self.layer}'

    @torch.compiler.disable
    def forward(self) -> GroupSamples:
        """The samples for this call, float32, on the device of the module."""
        device = self.state.device
        if self.resample == 'never' or (self.resample == 'train' and not self.training):
            if device not in self._fixed:
                self._fixed[device] = self.draw(0, EVAL).to(device)
            return self._fixed[device]
        mode = TRAIN if self.training else EVAL
        samples = self.draw(self._steps[mode], mode)
        self._steps[mode] += 1
        self.state[1 + mode] += 1
        return samples.to(device, non_blocking=True)

    def draw(self, step: int, mode: int = TRAIN) -> GroupSamples:
        """The samples of one step, on the CPU; changes nothing. ``mode`` is :data:`TRAIN` or :data:`EVAL`."""
        generator = torch.Generator().manual_seed(_mix(self._seed, self.layer, step, mode))
        n = self.n_test if mode == EVAL else self.n
        # Decompositions of matrices know no half precision, and samples are exact or useless.
        with torch.autocast('cpu', enabled=False):
            return self.group.sample(n, generator, dtype=torch.float32, **self.options)

    def reseed(self, seed: int) -> None:
        """Start over from another seed; fixed samples change too."""
        self._seed, self._steps = seed, [0, 0]
        self.state.copy_(torch.tensor([seed, 0, 0]))
        self._fixed.clear()

    def host_state(self) -> tuple[int, ...]:
        """Draws so far, in training and in evaluation, for :meth:`set_host_state`; the buffer is not included."""
        return tuple(self._steps)

    def set_host_state(self, state: tuple[int, ...]) -> None:
        """Continue after the draws of :meth:`host_state`."""
        self._steps = list(state)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seed, *self._steps = self.state.tolist()
        self._fixed.clear()


def resample(model: nn.Module, seed: int) -> None:
    """Give every sampler in ``model`` fresh samples that depend on ``seed``, to repeat an evaluation."""
    for module in model.modules():
        if isinstance(module, GroupSampler):
            module.reseed(seed)


def _common_seed() -> int:
    """A seed from torch's generator, the same on all processes, whose generators may differ."""
    seed = [int(torch.randint(2**31, ()))]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(seed)
    return seed[0]


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, the steps of SplitMix64, so that neighbours give unrelated draws."""
    state = 0
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
