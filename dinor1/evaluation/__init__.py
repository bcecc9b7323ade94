"""Protocols that give a detector its prompts, and metrics."""

from .accuracy import Accuracy
from .visual_generic import Exemplar, build_bank, draw_exemplars

__all__ = ['Accuracy', 'Exemplar', 'build_bank', 'draw_exemplars']
