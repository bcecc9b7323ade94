"""Prompt encoders for boxes and class names, and the sampling of prompts during training."""

from .box_encoding import drawn_prompts, encode_boxes, mean_by_class
from .config import PromptsConfig
from .sampling import PromptDraw, common_vocabulary, positive_maps, sample_prompts
from .text import TextTable, encode_text
from .visual import VisualPromptEncoder, upgrade_prompt_encoder
from .word_hash import WordHashModel

__all__ = [
    'PromptDraw',
    'PromptsConfig',
    'TextTable',
    'VisualPromptEncoder',
    'WordHashModel',
    'common_vocabulary',
    'drawn_prompts',
    'encode_boxes',
    'encode_text',
    'mean_by_class',
    'positive_maps',
    'sample_prompts',
    'upgrade_prompt_encoder',
]
