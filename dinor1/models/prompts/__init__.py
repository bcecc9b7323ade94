"""Prompt encoders for boxes and class names, and the sampling of prompts during training."""

from .box_encoding import drawn_prompts, encode_boxes, mean_by_class, mean_by_image_and_class
from .config import PromptsConfig
from .draw import draw_prompts
from .exemplar_weights import per_image_weights, prototype_weights
from .label_scope import BatchScope, batch_scope
from .minilm import MiniLM, minilm_folder
from .per_image import prompts_per_image
from .sampling import (
    PromptDraw,
    common_vocabulary,
    drop_prompts,
    exemplar_boxes,
    offered_boxes,
    positive_maps,
    sample_prompts,
)
from .text import TextTable, build_text_side, caption_names, encode_text, map_class_embeddings, why_unreadable
from .visual import VisualPromptEncoder, upgrade_prompt_encoder
from .word_hash import WordHashModel

__all__ = [
    'BatchScope',
    'MiniLM',
    'PromptDraw',
    'PromptsConfig',
    'TextTable',
    'VisualPromptEncoder',
    'WordHashModel',
    'batch_scope',
    'build_text_side',
    'caption_names',
    'common_vocabulary',
    'draw_prompts',
    'drawn_prompts',
    'drop_prompts',
    'encode_boxes',
    'encode_text',
    'exemplar_boxes',
    'map_class_embeddings',
    'mean_by_class',
    'mean_by_image_and_class',
    'minilm_folder',
    'offered_boxes',
    'per_image_weights',
    'positive_maps',
    'prompts_per_image',
    'prototype_weights',
    'sample_prompts',
    'upgrade_prompt_encoder',
    'why_unreadable',
]
