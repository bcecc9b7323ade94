"""Pictures: detections, the prompts that led to them, and sheets of both."""

from .detections import class_colors, draw_boxes
from .sheets import contact_sheet, prompt_strip

__all__ = ['class_colors', 'contact_sheet', 'draw_boxes', 'prompt_strip']
