"""Detectors: the data flow from images and prompts to boxes."""

from .dino_grqo import DINOGRQO
from .dino_r1 import DINOR1
from .reference import ReferenceModel

__all__ = ['DINOGRQO', 'DINOR1', 'ReferenceModel']
