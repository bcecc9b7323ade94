"""Detection by example without training: features of a frozen backbone, compared by cosine.

This is a baseline for detectors that are trained to find objects by example.
"""
