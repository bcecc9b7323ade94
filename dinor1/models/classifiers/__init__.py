"""Image classification: the test bench of the building blocks."""

from .image_classifier import ImageClassifier

__all__ = ['ImageClassifier']
