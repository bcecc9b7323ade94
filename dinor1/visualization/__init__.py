"""Drawings of detections and prompts, contact sheets, and charts."""

from .charts import draw_curves, draw_intervals, draw_queries, new_figure, save_figure
from .detections import class_colors, draw_boxes
from .sheets import contact_sheet, prompt_strip

__all__ = [
    'class_colors',
    'contact_sheet',
    'draw_boxes',
    'draw_curves',
    'draw_intervals',
    'draw_queries',
    'new_figure',
    'prompt_strip',
    'save_figure',
]
