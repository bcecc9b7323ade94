"""Activation checkpointing, which runs a forward pass for a second time."""

import torch


def is_recomputing() -> bool:
    """True inside a backward pass, where a forward can only be activation checkpointing's second run of a layer.

    Running statistics have seen that batch already. PyTorch has no public name for this; its own checkpointing asks
    the same function.
    """
    return torch._C._current_graph_task_id() != -1
