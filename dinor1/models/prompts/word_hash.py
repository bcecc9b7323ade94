"""A language model without a download: a class name is embedded as the sum of fixed random vectors of its words."""

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

    Names that share words have similar embeddings ("striped circle" and "striped square" have a cosine near 1/2);
    embeddings of other names are nearly orthogonal. The model does not capture meaning. If names are composed of
    attributes, shared words suffice for language alignment, and text prompts work for new combinations of known words.

    Args:
        language_dim: Width E of an embedding; the cosine of two words has a standard deviation of 1 / sqrt(E).
    """

    def __init__(self, language_dim: int = 256, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.language_dim = language_dim
        # Records the device of the module; not part of checkpoints.
        self.register_buffer('_device', torch.empty(0), persistent=False)

    def class_embeddings(self, names: Sequence[str]) -> Tensor:
        """(K, language_dim) unit vectors, equal on every machine."""
        rows = [torch.stack([self._word(word) for word in name.lower().split()]).sum(0) for name in names]
        return F.normalize(torch.stack(rows), dim=-1).to(self._device.device)

    def _word(self, word: str) -> Tensor:
        """Vector (language_dim,) of +1 and -1, from the bits of a digest of the word."""
        digest = hashlib.shake_256(word.encode()).digest(-(-self.language_dim // 8))
        bits = torch.tensor(list(digest), dtype=torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.flatten()[: self.language_dim].float() * 2 - 1
