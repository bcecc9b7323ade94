"""Detect activation checkpointing, which runs a forward pass for a second time."""

import torch


def is_recomputing() -> bool:
    """Whether a forward pass runs inside a backward pass, which only activation checkpointing does.

    Such a pass must not update running statistics again. PyTorch has no public function for this; its own
    checkpointing calls the same private function.
    """
    return torch._C._current_graph_task_id() != -1
