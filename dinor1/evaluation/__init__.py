"""Protocols that give a detector its prompts, and metrics."""

from .accuracy import Accuracy
from .repeats import mean_and_std
from .visual_generic import Exemplar, build_bank, draw_exemplars
from .visual_interactive import draw_interactive

__all__ = ['Accuracy', 'Exemplar', 'build_bank', 'draw_exemplars', 'draw_interactive', 'mean_and_std']
