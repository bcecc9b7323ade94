"""Where prompts come from: boxes, names, and the sampling of boxes during training."""

from .box_encoding import drawn_prompts, encode_boxes, mean_by_class
from .sampling import PromptDraw, common_vocabulary, positive_maps, sample_prompts
from .text import encode_text
from .visual import VisualPromptEncoder
from .word_hash import WordHashModel

__all__ = [
    'PromptDraw',
    'VisualPromptEncoder',
    'WordHashModel',
    'common_vocabulary',
    'drawn_prompts',
    'encode_boxes',
    'encode_text',
    'mean_by_class',
    'positive_maps',
    'sample_prompts',
]
