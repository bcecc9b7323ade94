"""Data sets: reading, checking, augmenting and sampling."""

import dinor1.compat  # noqa: F401, I001  (first: mmdet.datasets does not import without it)

from dinor1.datasets.coco import CocoPromptDataset
from dinor1.datasets.graphs import SBMDataset, graph_collate
from dinor1.datasets.knowledge_graph import KnowledgeGraphDataset
from dinor1.datasets.lvis import LVISPromptDataset
from dinor1.datasets.mnist import MNIST
from dinor1.datasets.odvg import ODVGPromptDataset
from dinor1.datasets.samplers import ResumableBatchSampler
from dinor1.datasets.seeding import SeededPipelineMixin
from dinor1.datasets.text import PythonTopics
from dinor1.datasets.zinc import ZINC

__all__ = [
    'MNIST',
    'ZINC',
    'CocoPromptDataset',
    'KnowledgeGraphDataset',
    'LVISPromptDataset',
    'ODVGPromptDataset',
    'PythonTopics',
    'ResumableBatchSampler',
    'SBMDataset',
    'SeededPipelineMixin',
    'graph_collate',
]
