"""How a detector that takes prompts is evaluated."""

from .visual_generic import Exemplar, build_bank, draw_exemplars

__all__ = ['Exemplar', 'build_bank', 'draw_exemplars']
