"""Text prompts: one embedding per token of a class name, as in Grounding DINO, or one per class.

Grounding DINO, arXiv 2303.05499, section 3.4 (sub-sentence representation): the names are joined into one text, and a
token attends only to the tokens of its own name.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors.glip import create_positive_map, create_positive_map_label_to_token
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError

_SEPARATOR = '. '
# Maximum size of a table: without a limit, the phrases of grounding data would make it grow indefinitely.
_MAX_TABLE = 20_000


def clean_name(name: str) -> str:
    """Turn the class name "cup_(drinking)" of a data set into "cup", the form that a language model knows."""
    return re.sub(r'\s+', ' ', re.sub(r'\(.*\)', '', name).replace('_', ' ')).strip()


def caption_names(caption: str) -> list[str]:
    """Distinct class names of a caption in the form of MMDetection's inferencers, ``'cat . traffic light .'``."""
    parts = (' '.join(part.split()) for part in f'{caption} '.split(_SEPARATOR))
    return list(dict.fromkeys(part for part in parts if part))


def why_unreadable(name: str, language_model: Any = None) -> str | None:
    """Why a class name cannot be a text prompt, as the predicate of a sentence about the name; None if it can.

    Args:
        name: Class name.
        language_model: See :func:`encode_text`; if it has a tokenizer, the tokens of the name are checked too.
    """
    # Check the characters.
    cleaned = clean_name(name)
    if not cleaned:
        return 'is only brackets, which are left out' if name.strip() else 'is empty'
    if not any(character.isalnum() for character in cleaned):
        return 'is only punctuation'
    # Check that a table of embeddings has the name.
    if hasattr(language_model, 'why_unknown') and (reason := language_model.why_unknown(name)):
        return str(reason)
    # Check the tokens.
    tokenizer = getattr(language_model, 'tokenizer', None)
    if tokenizer is None:
        return None
    tokens = tokenizer(cleaned, add_special_tokens=False)['input_ids']
    if all(token == tokenizer.unk_token_id for token in tokens):
        return 'has no part that the language model knows'
    # Count the start and end tokens too.
    if len(tokens) + 2 > language_model.max_tokens:
        return f'needs {len(tokens) + 2} tokens, the language model takes {language_model.max_tokens}'
    return None


def _join(names: Sequence[str]) -> tuple[str, list[list[list[int]]]]:
    """Join names into one text; also return the character span of each name, in MMDetection's format."""
    text, spans = '', []
    for name in map(clean_name, names):
        spans.append([[len(text), len(text) + len(name)]])
        text += name + _SEPARATOR
    return text, spans


def _groups(token_ids: Tensor, special_tokens: Sequence[int]) -> Tensor:
    """(T,) index of the sub-sentence of each token.

    A separator belongs to the sub-sentence that it ends; the start and end tokens of the text each form their own.
    """
    special = torch.isin(token_ids, torch.tensor(list(special_tokens), device=token_ids.device))
    return special.cumsum(0) - special.long()


def build_text_side(language_model: dict[str, Any], embed_dims: int) -> tuple[nn.Module, nn.Linear]:
    """Build a frozen language model, and the frozen linear map from its width to C.

    By default, the alignment loss sends no gradient to them: the map keeps the weights of a checkpoint, or its random
    initialisation. With the setting ``text_gradient`` of the alignment, the detector trains the map.

    Args:
        language_model: Config of the model.
        embed_dims: Width C of the prompts.
    """
    model = MODELS.build(language_model).requires_grad_(False)
    # MMDetection's BertModel stores its width in an inner module.
    body = getattr(model, 'language_backbone', [model])[0]
    return model, nn.Linear(body.language_dim, embed_dims).requires_grad_(False)


def encode_text(
    names: Sequence[str], language_model: Any, text_feat_map: nn.Module, *, per_token: bool = True
) -> PromptSet:
    """Encode class names.

    Names that do not fit into one text are distributed over several texts. The result is the same, since a token
    attends only to its own name.

    Args:
        names: Class names; label ``i`` of a prediction means ``names[i]``.
        language_model: MMDetection's ``BertModel``, or a model that embeds class names as a whole with
            ``class_embeddings(names) -> (K, E)``, such as :class:`~dinor1.models.prompts.word_hash.WordHashModel`.
        text_feat_map: Linear map from the language model's width to C.
        per_token: True: one prompt per token, as in Grounding DINO. False: one prompt per class, the mean of its
            tokens, as in the alignment loss.

    Raises:
        InputError: there is no name, or a name is empty, has only text in brackets or punctuation, or is too long for
            the language model.
    """
    # Check the names.
    if not names or not all(name.strip() for name in names):
        raise InputError(f'text prompts: expected class names, got {list(names)!r}; write them as "cat . dog"')
    for name in names:
        if reason := why_unreadable(name):
            raise InputError(f'text prompts: {name!r} {reason}; name the class')
    # Embed the names as a whole if the model does so.
    if hasattr(language_model, 'class_embeddings'):
        return class_prompts(text_feat_map(language_model.class_embeddings(names)), names)
    # Tokenise the joined names; halve the list of names until the text fits.
    text, spans = _join(names)
    tokenized = language_model.tokenizer([text], return_tensors='pt')
    token_ids = tokenized['input_ids'][0]
    if len(token_ids) > language_model.max_tokens:
        if len(names) == 1:
            raise InputError(
                f'text prompts: {names[0]!r} needs {len(token_ids)} tokens, the language model takes '
                f'{language_model.max_tokens}; shorten the name'
            )
        half = len(names) // 2
        parts = (names[:half], names[half:])
        return PromptSet.concat(
            [encode_text(part, language_model, text_feat_map, per_token=per_token) for part in parts]
        )
    # Embed the tokens.
    outputs = language_model([text])
    embeddings = text_feat_map(outputs['embedded'])[0]
    # Assign the tokens to classes and groups.
    label_to_token = create_positive_map_label_to_token(
        create_positive_map(tokenized, spans, max_num_entities=len(token_ids)), plus=0
    )
    labels = torch.full((len(embeddings),), -1, dtype=torch.long, device=embeddings.device)
    for label, tokens in label_to_token.items():
        labels[tokens] = label
    prompts = PromptSet(
        embeddings=embeddings,
        names=tuple(names),
        labels=labels,
        mask=outputs['text_token_mask'][0],
        groups=_pad(_groups(token_ids, language_model.special_tokens), len(embeddings)).to(embeddings.device),
        negative=torch.zeros(len(names), dtype=torch.bool, device=embeddings.device),
    )
    return prompts if per_token else class_prompts(prompts.class_embeddings(), names)


class TextTable:
    """Cache of the embeddings of class names, for frozen modules.

    Training iterations use the same few names again and again. The cache is emptied when the weights of the modules
    have changed, for example after loading a checkpoint.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}
        self._state: tuple | None = None

    def __call__(
        self, names: Sequence[str], language_model: nn.Module, text_feat_map: nn.Module | None = None
    ) -> Tensor:
        """(K, C) mean over the tokens of each name, without gradient.

        Args:
            names: K class names, see :func:`encode_text`.
            language_model: See :func:`encode_text`.
            text_feat_map: See :func:`encode_text`; None: return the language model's own embeddings, (K, E).
        """
        # Empty the cache if a weight has changed: every in-place change of a tensor increments its version.
        modules = [language_model] if text_feat_map is None else [language_model, text_feat_map]
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        state = (frozenset((t.device, t.dtype) for t in tensors), sum(t._version for t in tensors))
        if state != self._state or len(self._rows) > _MAX_TABLE:
            self._rows, self._state = {}, state
        # Encode the names that are missing.
        if missing := list(dict.fromkeys(name for name in names if name not in self._rows)):
            # One name at a time: rounding depends on the batch, and a resumed run would encode other batches of names.
            with torch.no_grad():
                for name in missing:
                    self._rows[name] = _class_embedding(name, language_model, text_feat_map).float()
        return torch.stack([self._rows[name] for name in names])


def _class_embedding(name: str, language_model: Any, text_feat_map: nn.Module | None) -> Tensor:
    """Prompt (C,) of one class name; without a map, the language model's own embedding (E,)."""
    if text_feat_map is None and hasattr(language_model, 'class_embeddings'):
        return language_model.class_embeddings([name])[0]
    return encode_text([name], language_model, text_feat_map or nn.Identity()).class_embeddings()[0]


def map_class_embeddings(embeddings: Tensor, language_model: Any, text_feat_map: nn.Module) -> Tensor:
    """Prompts (K, C) from the language model's own embeddings (K, E), with the gradient of the map.

    The values are those of :class:`TextTable` with the map.
    """
    mapped = text_feat_map(embeddings)
    return _scaled(mapped) if hasattr(language_model, 'class_embeddings') else mapped


def _scaled(embeddings: Tensor) -> Tensor:
    """Scale each row (C,) to the norm sqrt(C)."""
    return F.normalize(embeddings, dim=-1) * embeddings.shape[-1] ** 0.5


def class_prompts(embeddings: Tensor, names: Sequence[str]) -> PromptSet:
    """One prompt per class, scaled to the norm sqrt(C).

    The alignment loss makes text and visual prompts agree in direction only. At initial weights, a visual prompt has
    this norm after the last layer normalisation of its encoder.
    """
    return PromptSet.from_classes(_scaled(embeddings), names)


def _pad(groups: Tensor, length: int) -> Tensor:
    """Extend groups to ``length`` with -2, for the masked padding of ``pad_to_max``; the value has no effect."""
    return torch.cat([groups, groups.new_full((length - len(groups),), -2)])
