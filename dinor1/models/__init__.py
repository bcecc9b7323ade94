"""Models: detectors, heads, prompt encoders and losses, registered with MMDetection's."""

import dinor1.compat  # noqa: F401  (first: mmdet.models does not import without it)

from .backbones import AffineEquivariantBackbone, ConvNet, SmallViT
from .classifiers import ImageClassifier
from .dense_heads import DINOGRQOHead, DINOR1Head
from .detectors import DINOGRQO, DINOR1, fingerprint
from .graph import GraphPredictor
from .kge import NFELinkPredictor
from .language import GPT2
from .layers import MultiScaleDeformableAttention
from .losses import GRQOSettings
from .prompts import VisualPromptEncoder

__all__ = [
    'AffineEquivariantBackbone',
    'ConvNet',
    'DINOGRQO',
    'DINOGRQOHead',
    'DINOR1',
    'DINOR1Head',
    'GPT2',
    'GRQOSettings',
    'GraphPredictor',
    'ImageClassifier',
    'MultiScaleDeformableAttention',
    'NFELinkPredictor',
    'SmallViT',
    'VisualPromptEncoder',
    'fingerprint',
]
