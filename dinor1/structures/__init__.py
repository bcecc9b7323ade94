"""Data passed between the parts of the detector: prompts, image features, selected queries, outputs of the parts."""

from .box_prompts import BoxPrompts, Prompts
from .detector_output import DenoisingGroups, DetectorOutput
from .encoder_output import EncoderOutput
from .image_features import ImageFeatures
from .prompt_bank import PromptBank
from .prompt_set import PromptBatch, PromptSet
from .query_selection import QuerySelection

__all__ = [
    'BoxPrompts',
    'DenoisingGroups',
    'DetectorOutput',
    'EncoderOutput',
    'ImageFeatures',
    'PromptBank',
    'PromptBatch',
    'PromptSet',
    'Prompts',
    'QuerySelection',
]
