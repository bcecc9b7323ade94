"""The optional parts of the detector around its prompt encoder."""

from typing import Any, NamedTuple

from dinor1.registry import MODELS

from ..losses import LanguageAlignment, RelationDistillation
from ..prompts import PromptsConfig, build_text_side


class PromptParts(NamedTuple):
    """Modules that the settings of the prompts ask for; None: there is no such module.

    Attributes:
        exemplar_policy: Policy over exemplars, see :class:`~dinor1.models.prompts.ExemplarPolicy`.
        language_model: The frozen language model.
        text_feat_map: Linear map from the width of the language model to that of the prompts.
        alignment: Loss between visual and text prompts.
        relation_distill: Loss that gives visual prompts the similarities of the names of their classes.
        refiner: Module that refines prompts, see :class:`~dinor1.models.prompts.PromptsConfig`.
    """

    exemplar_policy: Any = None
    language_model: Any = None
    text_feat_map: Any = None
    alignment: LanguageAlignment | None = None
    relation_distill: RelationDistillation | None = None
    refiner: Any = None


def build_prompt_parts(config: PromptsConfig, embed_dims: int) -> PromptParts:
    """Build the optional parts.

    Args:
        config: Settings of the prompts.
        embed_dims: Width C of the prompts.
    """
    policy: Any = None
    language_model: Any = None
    text_feat_map: Any = None
    alignment: Any = None
    relation_distill: Any = None
    refiner: Any = None
    if config.exemplar_policy is not None:
        policy = MODELS.build(dict(config.exemplar_policy, embed_dims=embed_dims))
    # Build the text side; its map is trained in text iterations, or with the gradient of the alignment.
    if config.text_side is not None:
        language_model, text_feat_map = build_text_side(config.text_side, embed_dims)
        text_feat_map.requires_grad_(config.trains_text)
    if config.alignment is not None:
        alignment = MODELS.build(dict(type='LanguageAlignment') | config.alignment)
        if alignment.text_gradient:
            text_feat_map.requires_grad_(True)
    # Build the distillation, whose targets are texts if there is a language model.
    if config.relation_distill is not None:
        target = 'label' if language_model is None else 'text'
        relation_distill = MODELS.build(dict(type='RelationDistillation', target=target) | config.relation_distill)
    if config.refiner is not None:
        refiner = MODELS.build(dict(config.refiner, embed_dim=embed_dims))
    return PromptParts(policy, language_model, text_feat_map, alignment, relation_distill, refiner)
