"""Detectors: the data flow from images and prompts to boxes."""

from dinor1.utils.fingerprint import fingerprint

from .dino_grqo import DINOGRQO
from .dino_r1 import DINOR1

__all__ = ['DINOGRQO', 'DINOR1', 'fingerprint']
