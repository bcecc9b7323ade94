"""Changes to the weights of linear maps, so that a cheaper norm can replace a neighbouring one.

Every layer that multiplies by a matrix is treated as ``weight (out, in, *taps)``, regardless of its own layout:
``nn.Linear``, convolutions without groups, the transposed ``Conv1D`` of Hugging Face's GPT-2, and both projections of
``nn.MultiheadAttention``. Embeddings and free parameters (positions, class tokens) have outputs only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .replace import bypass_fused_encoders


@dataclass(frozen=True)
class LinearMap:
    """A matrix product in a module, and where its parts are stored.

    Attributes:
        module: The module that owns the weight.
        weight: Attribute name of the weight.
        bias: Attribute name of the bias, which may be None.
        out_axis: Axis of the weight's outputs.
        in_axis: Axis of the weight's inputs; None: no inputs (embedding, free parameter).
        out_size: Attribute that holds the number of outputs, if any.
        in_size: Attribute that holds the number of inputs, if any.
        channel_axis: Axis of the channels of the module's input and output, from the end.
        rows: Outputs of the map; None: all.
        pads_zeros: Whether the module pads its input with zeros itself (a convolution).
    """

    module: nn.Module
    weight: str = 'weight'
    bias: str | None = 'bias'
    out_axis: int = 0
    in_axis: int | None = 1
    out_size: str | None = None
    in_size: str | None = None
    channel_axis: int = -1
    rows: slice | None = None
    pads_zeros: bool = False

    def read(self) -> tuple[Tensor, Tensor | None]:
        """``weight (out, in, *taps)``, or ``(out, *rest)`` without inputs, and ``bias (out)``: copies in float64."""
        weight = getattr(self.module, self.weight).detach().to(torch.float64, copy=True).movedim(self.out_axis, 0)
        bias = None if self.bias is None else getattr(self.module, self.bias)
        return weight, None if bias is None else bias.detach().to(torch.float64, copy=True)

    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Store a changed result of :meth:`read`; sizes may differ, and a bias may be new."""
        # Store the parameters.
        _set_parameter(self.module, self.weight, weight.movedim(0, self.out_axis))
        if bias is not None:
            _set_parameter(self.module, self.bias, bias)
        # Correct the sizes that the module states.
        if self.out_size is not None:
            setattr(self.module, self.out_size, weight.shape[0])
        if self.in_size is not None:
            setattr(self.module, self.in_size, weight.shape[1])

    def scale_inputs(self, scale: Tensor) -> None:
        """``W <- W diag(scale)``."""
        weight, bias = self.read()
        weight[self._rows()] *= _along(scale, 1, weight)
        self.write(weight, bias)

    def shift_inputs(self, shift: Tensor) -> None:
        """``b <- b + W shift``; creates a missing bias. Wrong if the module pads zeros itself."""
        weight, bias = self.read()
        bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
        taps = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        bias[self._rows()] += taps[self._rows()] @ shift.to(weight.dtype)
        self.write(weight, bias)

    def centre_inputs(self) -> None:
        """``W <- W P`` with ``P = I - 11^T / in``: the map ignores the mean over its inputs."""
        weight, bias = self.read()
        weight[self._rows()] -= weight[self._rows()].mean(1, keepdim=True)
        self.write(weight, bias)

    def drop_last_input(self) -> None:
        """Read a zero-mean vector whose last entry is not stored: ``W <- W[:, :-1] - W[:, -1:]``."""
        weight, bias = self.read()
        self.write(weight[:, :-1] - weight[:, -1:], bias)

    def scale_outputs(self, scale: Tensor, shift: Tensor | None = None) -> None:
        """``W <- diag(scale) W``, ``b <- scale * b + shift``."""
        weight, bias = self.read()
        if bias is not None:
            bias = bias * scale
        if shift is not None:
            bias = shift + (0 if bias is None else bias)
        self.write(weight * _along(scale, 0, weight), bias)

    def centre_outputs(self) -> None:
        """``W <- P W``, ``b <- P b`` with ``P = I - 11^T / out``: every output has zero mean over channels."""
        weight, bias = self.read()
        self.write(weight - weight.mean(0, keepdim=True), None if bias is None else bias - bias.mean())

    def drop_last_output(self) -> None:
        """Remove the last output."""
        weight, bias = self.read()
        self.write(weight[:-1], None if bias is None else bias[:-1])

    def _rows(self) -> slice:
        return slice(None) if self.rows is None else self.rows


def linear_map(module: nn.Module, rows: slice | None = None) -> LinearMap | None:
    """Describe how ``module`` stores its matrix; None if it is not a plain linear map.

    For ``nn.MultiheadAttention`` this is the projection of the inputs; ``rows`` selects queries, keys or values. Its
    outputs are those of ``module.out_proj``, an ``nn.Linear``.
    """
    if isinstance(module, nn.MultiheadAttention):
        if 'in_proj_weight' not in module._parameters or not module._qkv_same_embed_dim:
            return None
        return LinearMap(module, 'in_proj_weight', 'in_proj_bias', rows=rows)
    if not isinstance(module._parameters.get('weight'), nn.Parameter):
        return None  # recomputed in every forward pass, as by torch.nn.utils.parametrize
    if isinstance(module, nn.Linear):
        return LinearMap(module, out_size='out_features', in_size='in_features')
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1:
        # Padded zeros are not shifted with the other inputs.
        padded = module.padding_mode == 'zeros' and module.padding != 'valid'
        padded = padded and (module.padding == 'same' or any(module.padding))
        axis = -1 - len(module.kernel_size)
        return LinearMap(
            module, out_size='out_channels', in_size='in_channels', channel_axis=axis, pads_zeros=bool(padded)
        )
    # transformers.pytorch_utils.Conv1D, recognised without importing transformers: a Linear with transposed weight.
    if type(module).__name__ == 'Conv1D' and {'nf', 'nx'} <= set(vars(module)) and module.weight.dim() == 2:
        return LinearMap(module, out_axis=1, in_axis=0, out_size='nf', in_size='nx')
    return None


def output_map(model: nn.Module, name: str) -> LinearMap | None:
    """Map that writes ``name`` in ``model``: a linear layer, an embedding, a parameter or a buffer."""
    owner, _, leaf = name.rpartition('.')
    parent = model.get_submodule(owner)
    # A parameter or buffer, such as a position embedding, has its channels last.
    if leaf in parent._parameters or leaf in parent._buffers:
        return LinearMap(parent, leaf, None, out_axis=-1, in_axis=None)
    module = model.get_submodule(name)
    if isinstance(module, nn.Embedding):
        return LinearMap(module, bias=None, out_axis=-1, in_axis=None, out_size='embedding_dim')
    return linear_map(module)


def untie(model: nn.Module, target: LinearMap) -> list[str]:
    """Give ``target`` its own copy of parameters shared with other modules; returns the names of these modules."""
    others = []
    for attribute in filter(None, (target.weight, target.bias)):
        parameter = getattr(target.module, attribute)
        if parameter is None:
            continue
        # Find the other users, and copy the parameter if there are any.
        users = [
            (f'{name}.{key}' if name else key, module)
            for name, module in model.named_modules()
            for key, value in module._parameters.items()
            if value is parameter and not (module is target.module and key == attribute)
        ]
        if users:
            copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            target.module._parameters[attribute] = copy
            others += [name for name, _ in users]
    if others:
        _forget_tying(model)
    return others


def _forget_tying(model: nn.Module) -> None:
    """Prevent Hugging Face models from tying the weights again when they are saved or loaded."""
    for module in model.modules():
        config = getattr(module, 'config', None)
        if hasattr(config, 'tie_word_embeddings'):
            config.tie_word_embeddings = False


def _along(vector: Tensor, axis: int, like: Tensor) -> Tensor:
    """Reshape ``vector`` to broadcast along ``axis`` of ``like``, in its dtype."""
    return vector.to(like.dtype).reshape([-1 if i == axis else 1 for i in range(like.dim())])


def _set_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    old = module._buffers.get(name, module._parameters.get(name))
    if old is not None and old.shape == value.shape:
        with torch.no_grad():
            old.copy_(value)
        return
    if name in module._buffers:
        module._buffers[name] = value.to(old.dtype).clone(memory_format=torch.contiguous_format)
        return
    like = old if old is not None else next(p for p in module._parameters.values() if p is not None)
    # Clone, because a slice would keep the memory of the whole old weight.
    parameter = nn.Parameter(value.to(like.dtype).clone(memory_format=torch.contiguous_format), like.requires_grad)
    module._parameters[name] = parameter


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace ``old`` by ``new`` under every name in ``model``."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    bypass_fused_encoders(model, {new})
