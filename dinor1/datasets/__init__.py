"""Data sets: reading, checking, augmenting and sampling."""

from .coco import CocoPromptDataset
from .lvis import LVISPromptDataset
from .odvg import ODVGPromptDataset
from .samplers import ResumableBatchSampler
from .seeding import SeededPipelineMixin

__all__ = [
    'CocoPromptDataset',
    'LVISPromptDataset',
    'ODVGPromptDataset',
    'ResumableBatchSampler',
    'SeededPipelineMixin',
]
