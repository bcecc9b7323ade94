"""Prompt encoders for boxes and class names, and the sampling of prompts during training."""

from .aggregating import AggregatingPromptEncoder
from .box_encoding import (
    drawn_prompts,
    encode_boxes,
    encode_exemplars,
    encode_pairs,
    mean_by_class,
    mean_by_image_and_class,
)
from .class_embeddings import ClassEmbeddings, read_class_embeddings, save_class_embeddings, write_class_embeddings
from .config import PromptsConfig
from .draw import draw_prompts, redraw_exemplars
from .exemplar_group import ExemplarGroup, append_hidden, draw_exemplar_group, split_hidden
from .exemplar_policy import ExemplarPolicy
from .exemplar_weights import pair_exemplars, per_image_weights, prototype_weights
from .label_scope import BatchScope, batch_scope
from .memory import PromptMemory, RecalledPrompts, RememberedPrompt, image_keys, remembered_prompts
from .minilm import MiniLM, minilm_folder
from .mode_schedule import prompt_mode
from .per_image import prompts_per_image
from .prototypes import class_prototypes
from .sample_texts import sample_text_prompts
from .sampling import (
    PromptDraw,
    common_vocabulary,
    drop_prompts,
    exemplar_boxes,
    offered_boxes,
    positive_maps,
    sample_prompts,
)
from .text import (
    TextTable,
    build_text_side,
    caption_names,
    class_prompts,
    encode_text,
    map_class_embeddings,
    why_unreadable,
)
from .visual import VisualPromptEncoder, upgrade_prompt_encoder
from .word_hash import WordHashModel

__all__ = [
    'AggregatingPromptEncoder',
    'BatchScope',
    'ClassEmbeddings',
    'ExemplarGroup',
    'ExemplarPolicy',
    'MiniLM',
    'PromptDraw',
    'PromptMemory',
    'PromptsConfig',
    'RecalledPrompts',
    'RememberedPrompt',
    'TextTable',
    'VisualPromptEncoder',
    'WordHashModel',
    'append_hidden',
    'batch_scope',
    'build_text_side',
    'caption_names',
    'class_prompts',
    'class_prototypes',
    'common_vocabulary',
    'draw_exemplar_group',
    'draw_prompts',
    'drawn_prompts',
    'drop_prompts',
    'encode_boxes',
    'encode_exemplars',
    'encode_pairs',
    'encode_text',
    'exemplar_boxes',
    'map_class_embeddings',
    'mean_by_class',
    'mean_by_image_and_class',
    'minilm_folder',
    'offered_boxes',
    'pair_exemplars',
    'per_image_weights',
    'positive_maps',
    'prompt_mode',
    'prompts_per_image',
    'prototype_weights',
    'read_class_embeddings',
    'redraw_exemplars',
    'image_keys',
    'remembered_prompts',
    'sample_prompts',
    'sample_text_prompts',
    'save_class_embeddings',
    'split_hidden',
    'upgrade_prompt_encoder',
    'why_unreadable',
    'write_class_embeddings',
]
