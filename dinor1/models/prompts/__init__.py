"""Where prompts come from: boxes, names, and the sampling of boxes during training."""

from dinor1.blocks.category_graph.prompt_refiner import CategoryGraphPrompts

from .sampling import PromptDraw, common_vocabulary, positive_maps, sample_prompts
from .text import encode_text
from .visual import VisualPromptEncoder
from .word_hash import WordHashModel

__all__ = [
    'CategoryGraphPrompts',
    'PromptDraw',
    'VisualPromptEncoder',
    'WordHashModel',
    'common_vocabulary',
    'encode_text',
    'positive_maps',
    'sample_prompts',
]
