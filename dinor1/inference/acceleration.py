"""Faster inference with a trained detector: half precision and compilation, both off by default."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dinor1.models import DINOR1
from dinor1.structures import DetectorOutput, ImageFeatures, PromptBatch
from dinor1.utils.errors import InputError

INFERENCE_DTYPES = {'float32': None, 'bfloat16': torch.bfloat16}


def set_inference_dtype(model: nn.Module, dtype: str | None, option: str) -> None:
    """Set the precision of inference; :class:`~dinor1.models.DINOR1` keeps some computations in float32.

    Args:
        model: The detector.
        dtype: A key of :data:`INFERENCE_DTYPES`, or None: float32.
        option: Name of the user's option, for error messages.

    Raises:
        InputError: the dtype is not supported, or the model is not a DINOR1.
    """
    if (dtype or 'float32') not in INFERENCE_DTYPES:
        raise InputError(f'{option} {dtype}: must be one of {", ".join(INFERENCE_DTYPES)}')
    _detector(model, option).inference_dtype = INFERENCE_DTYPES[dtype or 'float32']


def compile_detector(
    model: nn.Module,
    device: torch.device | str,
    option: str = 'compile',
    backend: str | Callable = 'inductor',
) -> None:
    """Compile the detector with ``torch.compile``: one graph of backbone and neck, and one from encoder to decoder.

    The first image of every size, with padding and without, takes a minute or more, because the detector is compiled
    for this size. A new number of prompts does not need a new compilation, except the first image with a single prompt.
    torch keeps graphs of only a few image sizes; further sizes run without compilation.

    Args:
        model: The detector, changed in place.
        device: Device of the model.
        option: Name of the user's option, for error messages.
        backend: Backend of ``torch.compile``.

    Raises:
        InputError: this machine lacks a compiler, or the model is not a DINOR1.
    """
    # Check that the machine can compile.
    detector = _detector(model, option)
    if backend == 'inductor' and (reason := why_not_compile(device)):
        raise InputError(f'{option}: {reason}; install it, or leave the option out: results are the same')
    # Compile backbone and neck, then encoder to decoder.
    detector.extract_feat = torch.compile(detector.extract_feat, backend=backend, dynamic=False)
    transform = torch.compile(detector.transform, backend=backend, dynamic=False)

    # Let one graph serve any number of prompts.
    @functools.wraps(transform)
    def with_any_number_of_prompts(features: ImageFeatures, prompts: PromptBatch) -> DetectorOutput:
        for tensor in prompts:
            torch._dynamo.maybe_mark_dynamic(tensor, 1)
        return transform(features, prompts)

    detector.transform = with_any_number_of_prompts


def why_not_compile(device: torch.device | str) -> str:
    """Describe what the default backend of ``torch.compile`` lacks on ``device``; empty if nothing is missing."""
    # A GPU needs Triton.
    if str(device).split(':')[0] == 'cuda' and importlib.util.find_spec('triton') is None:
        return 'there is no package triton, which torch.compile needs for a GPU'
    # Every device needs a C++ compiler; on a GPU it compiles the code that launches the kernels.
    named = os.environ.get('CXX')
    candidates = [named] if named else ['g++', 'clang++', 'c++']
    if not any(shutil.which(candidate) for candidate in candidates):
        return f'there is no C++ compiler ({" or ".join(candidates)}), which torch.compile needs'
    return ''


def _detector(model: nn.Module, option: str) -> Any:
    if not isinstance(model, DINOR1):
        raise InputError(f'{option}: not available for a {type(model).__name__}; use the config of a DINOR1')
    return model
