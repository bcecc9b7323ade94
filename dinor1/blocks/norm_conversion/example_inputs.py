"""Example inputs for tracing a model, and the check that a conversion did not change its outputs."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .dataflow import tensors_in

Call = tuple[tuple, dict]

# Relative to the largest entry of an output, in float64. Wrong conversions of models with random parameters are off by
# 1e-3 and more; attention code that always computes its softmax in float32 deviates by 1e-7.
_TOLERANCE = 1e-5
_IMAGE_SIDES = (32, 28, 64, 16, 96, 112, 128, 160, 192, 224, 256, 384, 8)


def as_calls(example_inputs: Any) -> list[Call]:
    """Split example inputs into positional and keyword arguments of each call.

    Args:
        example_inputs: One call: a tensor, a tuple of positional arguments or a dict of keyword arguments. Several
            calls: a list of these.
    """
    items = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    calls: list[Call] = []
    for item in items:
        if isinstance(item, dict):
            calls.append(((), item))
        else:
            calls.append((item if isinstance(item, tuple) else (item,), {}))
    return calls


def example_calls(model: nn.Module, example_inputs: Any = None) -> list[Call]:
    """Calls to trace ``model`` with, in float64 on CPU: the given ones, or a guess.

    The guess covers Hugging Face models (tokens or images, by their config), MMDetection's Swin (with a size that is
    not a multiple of the window, so that all paddings occur) and models that take one tensor of tokens or images.

    Raises:
        ValueError: the model does not run on the given inputs, or on any guess.
    """
    # Check the given inputs.
    probe = portable_copy(model)
    if example_inputs is not None:
        calls = [_portable(call) for call in as_calls(example_inputs)]
        for call in calls:
            try:
                run(probe, call)
            except Exception as error:
                raise ValueError(f'{type(model).__name__} does not run on the example inputs: {error}') from error
        return calls
    # Otherwise try guesses until the model runs.
    for candidate in _guesses(model):
        call = _portable(candidate)
        try:
            if run(probe, call):
                return [call]
        except Exception:
            continue
    raise ValueError(
        f'cannot guess an input of {type(model).__name__}; pass example_inputs: a tensor, a tuple of positional '
        'arguments, a dict of keyword arguments, or a list of several such calls'
    )


def portable_copy(model: nn.Module) -> nn.Module:
    """Copy in float64 on CPU, in evaluation mode."""
    model = copy.deepcopy(model).cpu().double()
    model.eval()
    return model


@torch.no_grad()
def run(model: nn.Module, call: Call) -> list[Tensor]:
    """Run ``model`` on ``call``; returns all output tensors."""
    args, kwargs = call
    return list(tensors_in(model(*args, **kwargs)))


def check_equal(model: nn.Module, convert: Callable[[nn.Module], None], calls: list[Call], converter: str) -> None:
    """Convert a copy of ``model`` with random parameters, and raise an error if the outputs change.

    Parameters are random, since the shift of 0 and the scale of 1 of a new model would hide errors that appear after
    training.

    Raises:
        ValueError: the outputs differ, or the converted model does not run.
    """
    # Randomise the parameters.
    before = portable_copy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in before.parameters():
            if parameter.is_floating_point():
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5
    # Convert, and compare the outputs.
    after = copy.deepcopy(before)
    convert(after)
    for call in calls:
        try:
            actual = run(after, call)
        except Exception as error:
            raise ValueError(f'{converter}: the converted {type(model).__name__} does not run: {error}') from error
        error = difference(run(before, call), actual)
        if not error <= _TOLERANCE:
            raise ValueError(
                f'{converter}: the converted {type(model).__name__} would differ from the original one by '
                f'{error:.1e} of its output; it was not converted. Something reads or changes a weight or a stream '
                'where the example inputs do not show it.'
            )


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Largest deviation, relative to each tensor's largest magnitude; infinite if tensors cannot be compared."""
    if len(expected) != len(actual) or not expected:
        return float('inf')
    worst = 0.0
    for a, b in zip(expected, actual, strict=True):
        if a.shape != b.shape:
            return float('inf')
        # Compare floating-point numbers relative to the largest finite magnitude; all others must be equal.
        if a.numel() and a.is_floating_point():
            if not bool(a.isfinite().any()):
                return float('inf')  # nothing to compare
            same = (a == b) | (a.isnan() & b.isnan())  # masks hold infinities
            error = torch.where(same, 0, (a - b).abs()).max() / a[a.isfinite()].abs().max().clamp(min=1e-12)
            worst = max(worst, float('inf') if bool(error.isnan()) else float(error))
        elif not torch.equal(a, b):
            return float('inf')
    return worst


def _portable(call: Call) -> Call:
    def move(obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return obj.detach().cpu().double() if obj.is_floating_point() else obj.detach().cpu()
        if isinstance(obj, tuple) and hasattr(obj, '_fields'):
            return type(obj)(*map(move, obj))
        if isinstance(obj, (list, tuple)):
            return type(obj)(map(move, obj))
        if isinstance(obj, dict):
            return {key: move(value) for key, value in obj.items()}
        return obj

    args, kwargs = call
    return tuple(move(list(args))), move(kwargs)


def _guesses(model: nn.Module) -> Iterator[Call]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # Hugging Face models: tokens or images, by their config.
    config, main_input = getattr(model, 'config', None), getattr(model, 'main_input_name', None)
    if main_input == 'input_ids' and isinstance(getattr(config, 'vocab_size', None), int):
        length = min(12, getattr(config, 'max_position_embeddings', 12))
        yield (), dict(input_ids=torch.randint(config.vocab_size, (2, length), generator=generator))
        return
    if main_input == 'pixel_values' and hasattr(config, 'image_size') and hasattr(config, 'num_channels'):
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        yield (), dict(pixel_values=noise(2, config.num_channels, height, width))
        return
    # Swin: a size that needs padding in both directions.
    if type(model).__name__.endswith(('SwinTransformer', 'DenormalFreeSwin')) and hasattr(model, 'stages'):
        projection = model.patch_embed.projection
        window = model.stages[0].blocks[0].attn.window_size
        side = projection.stride[0] * (window + 2)
        yield (noise(2, projection.in_channels, side, side + 2 * projection.stride[0]),), {}
        return
    # Other models: by the first layer.
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Embedding, nn.Linear))), None)
    if isinstance(first, nn.Embedding):
        yield (torch.randint(first.num_embeddings, (2, 8), generator=generator),), {}
    if isinstance(first, nn.Linear):
        # A learned table of positions, perhaps with one for a class token, determines the number of tokens.
        positions = {n for p in model.parameters() if p.dim() > 1 for n in (p.shape[-2], p.shape[-2] - 1) if n > 0}
        for length in (8, *sorted(positions)):
            yield (noise(2, length, first.in_features),), {}
        yield (noise(4, first.in_features),), {}
    # Try the size that the model states before common sizes.
    sides = list(_IMAGE_SIDES)
    for owner in (model, getattr(model, 'patch_embed', None)):
        for size in (getattr(owner, 'img_size', None), getattr(owner, 'image_size', None)):
            sides[:0] = [size] if isinstance(size, int) else list(size or ())[:1]
    for channels in (first.in_channels,) if isinstance(first, nn.Conv2d) else (3, 1):
        for side in sides:
            yield (noise(2, channels, side, side),), {}
