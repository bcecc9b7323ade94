"""Random numbers for stochastic rounding: one stream per layer and process, with a position that can be stored."""

import hashlib

import torch
import torch.distributed as dist
from torch import nn


class NoiseSource:
    """Generators that depend only on (seed, name, rank, position); every call advances the position by one.

    Every process of a distributed run has its own rank and hence its own noise. The position is the only state: a run
    that resumes at a stored position draws the same numbers as an uninterrupted run.

    Args:
        seed: Seed of the run; None: torch's initial seed when the first number is drawn.
        name: Name of the layer.
    """

    def __init__(self, seed: int | None = None, name: str = '') -> None:
        self.seed, self.name, self.position = seed, name, 0

    def next_generator(self, device: torch.device) -> torch.Generator:
        """Make a generator on ``device`` for one quantization."""
        # The seed of the run is the default.
        if self.seed is None:
            self.seed = torch.initial_seed()
        # Hash seed, rank, position and name, so that all quantizations have different noise.
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        words = f'{self.seed}/{rank}/{self.position}/{self.name}'
        self.position += 1
        digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, 'little') >> 1)


def noise_sources(model: nn.Module) -> dict[str, NoiseSource]:
    """Noise sources of a model's integer layers by the name of the layer."""
    found = {name: getattr(module, 'noise', None) for name, module in model.named_modules()}
    return {name: source for name, source in found.items() if isinstance(source, NoiseSource)}


def noise_state(model: nn.Module) -> dict[str, int]:
    """Position of every noise source, which a checkpoint needs for an exact resume."""
    return {name: source.position for name, source in noise_sources(model).items()}


def load_noise_state(model: nn.Module, state: dict[str, int]) -> None:
    """Continue at the positions of :func:`noise_state`; positions of other layers do not change."""
    for name, source in noise_sources(model).items():
        source.position = state.get(name, source.position)
