"""A language model that needs no download: a class name is the sum of its words, a word is a fixed random direction."""

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from dinor1.registry import MODELS


@MODELS.register_module()
class WordHashModel(BaseModule):
    """Bag of words with hashed embeddings, frozen and without parameters.

    Names that share words get similar embeddings ("striped circle" and "striped square" a cosine near 1/2), others are
    nearly orthogonal. It knows nothing of meaning, but where names are put together from attributes that is what
    language alignment needs, and text prompts work for any name made of known words.

    Args:
        language_dim: Length of an embedding; the chance cosine of two words is about 1 / sqrt(language_dim).
    """

    def __init__(self, language_dim: int = 256, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.language_dim = language_dim
        # Not in checkpoints: it tells where to put the embeddings, no more.
        self.register_buffer('_device', torch.empty(0), persistent=False)

    def class_embeddings(self, names: Sequence[str]) -> Tensor:
        """(K, language_dim) unit vectors, the same on every machine."""
        rows = [torch.stack([self._word(word) for word in name.lower().split()]).sum(0) for name in names]
        return F.normalize(torch.stack(rows), dim=-1).to(self._device.device)

    def _word(self, word: str) -> Tensor:
        """(language_dim,) of +1 and -1: the bits of a digest of the word."""
        digest = hashlib.shake_256(word.encode()).digest(-(-self.language_dim // 8))
        bits = torch.tensor(list(digest), dtype=torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.flatten()[: self.language_dim].float() * 2 - 1
