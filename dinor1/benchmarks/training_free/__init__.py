"""Detection by example without training: features of a frozen backbone, compared by cosine.

A detector that was trained to find objects by example should be better than this.
"""
