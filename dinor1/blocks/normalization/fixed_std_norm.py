"""LayerNorm that can be switched to a constant divisor, for LayerNorm removal.

S. Heimersheim, "You can remove GPT2's LayerNorm by fine-tuning", arXiv 2409.13710; L. Baroni, G. Khara, J. Schaeffer,
M. Subkhankulov and S. Heimersheim, "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559.
"""

import torch
from torch import Tensor, nn

from dinor1.utils.precision import compute_dtype, full_precision
from dinor1.utils.recomputation import is_recomputing

from .base import StatisticsModule, check_channels, check_numbers


class FixedStdLayerNorm(StatisticsModule):
    """``y = weight * (x - mean_c(x)) / S + bias``; ``S`` is the token's deviation until the switch to a constant.

    Before the switch the layer is a LayerNorm, and in training it tracks
    ``S <- momentum * S + (1 - momentum) * mean over tokens of sqrt(var_c(x) + eps)``; the first batch sets ``S``.
    :meth:`fix` makes ``S`` the divisor and freezes it. The layer may be called twice per forward pass, for queries and
    keys and for values, each with its own switch: only the first call tracks, and the earlier switch freezes ``S``.
    Nothing is tracked in evaluation, nor when activation checkpointing repeats a forward pass.

    Buffers: ``std`` (0 = not measured yet), ``is_fixed`` and ``v_is_fixed`` (bool), so that a run can resume its
    schedule. They are read on the device only: the host never waits for them.

    Args:
        num_features: Width of the last axis.
        eps: Added to the variance; ``S`` already includes it.
        momentum: Share of the old ``S`` kept per forward pass. The papers use 0.9 for their full batch, and
            ``0.9 ** (b / 32)`` for micro-batches of ``b`` sequences.
        per_position: None: one ``S`` for all tokens, ``std`` is (). A number N: ``std`` is (N,), for up to N
            positions on axis -2; the first position (start of text, class token) has its own ``S``, all others share
            one.
        affine: Whether there is a ``weight``, initially 1.
        bias: Whether there is also a ``bias``, initially 0; ignored without ``affine``, as in LayerNorm.

    Raises:
        ValueError: a number is out of range; in ``forward``, the input does not fit; in :meth:`fix`, nothing has been
            measured yet.
    """

    _abbr_ = 'fln'

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.9,
        per_position: int | None = None,
        affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_numbers(self, num_features=num_features, eps=eps, momentum=momentum)
        if per_position is not None:
            check_numbers(self, per_position=per_position)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.per_position = per_position
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine and bias else None
        # Divisor and switches are buffers, so that checkpoints contain them; values have a switch of their own.
        self.register_buffer('std', torch.zeros(() if per_position is None else per_position))
        self.register_buffer('is_fixed', torch.tensor(False))
        self.register_buffer('v_is_fixed', torch.tensor(False))

    @classmethod
    def from_layer_norm(
        cls, norm: nn.LayerNorm, momentum: float = 0.9, per_position: int | None = None
    ) -> 'FixedStdLayerNorm':
        """Make a layer with the function of ``norm`` and its parameters (shared, not copied), ``eps`` and mode.

        Raises:
            ValueError: ``norm`` normalises more than one axis.
        """
        if len(norm.normalized_shape) != 1:
            raise ValueError(f'FixedStdLayerNorm works on one axis, got LayerNorm over {tuple(norm.normalized_shape)}')
        # Make the layer on the device of the norm.
        layer = cls(norm.normalized_shape[0], norm.eps, momentum, per_position, affine=False)
        if norm.weight is not None:
            layer.to(norm.weight.device, compute_dtype(norm.weight))
        # Share the parameters.
        layer.weight, layer.bias = norm.weight, norm.bias
        return layer.train(norm.training)

    def forward(self, x: Tensor, values: bool = False, first_std_mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: (..., num_features); with ``per_position`` (..., positions, num_features).
            values: The output is for attention values only: use the switch ``v_is_fixed``, and track nothing.
            first_std_mask: Boolean, the shape of ``x`` without its last axis: True = after the switch, divide by the
                first position's ``S`` (the papers' special treatment of end-of-text tokens).

        Returns:
            The shape and dtype of ``x``.
        """
        check_channels(self, x, -1)
        with full_precision(x.device):
            # Compute the deviation of each position, in float32 at least.
            full = x.to(compute_dtype(x))
            centred = full - full.mean(-1, keepdim=True)
            sigma = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
            constant = self._divisor(x, first_std_mask).to(sigma.dtype)
            # Choose on the device: the switches are buffers, and reading them would stall a GPU at every norm.
            y = centred / torch.where(self.v_is_fixed if values else self.is_fixed, constant, sigma)
            # Track the deviation, once per training step.
            if self.training and not values and not is_recomputing():
                self._track(sigma.detach().squeeze(-1))
            # Apply weight and bias.
            if self.weight is not None:
                y = y * self.weight.to(y.dtype)
            if self.bias is not None:
                y = y + self.bias.to(y.dtype)
        return y.to(x.dtype)

    def _divisor(self, x: Tensor, first_std_mask: Tensor | None) -> Tensor:
        """Reshape ``S`` to divide ``x``."""
        # One S for all positions.
        if self.per_position is None:
            if first_std_mask is not None:
                raise ValueError(
                    'FixedStdLayerNorm: first_std_mask needs per_position, which gives the first position its own S'
                )
            return self.std
        # One S for the first position and one for the others.
        positions = x.shape[-2]
        if positions > self.per_position:
            raise ValueError(
                f'FixedStdLayerNorm has S for {self.per_position} positions, got {positions} in {tuple(x.shape)}'
            )
        std = self.std[:positions, None]
        if first_std_mask is not None:
            std = torch.where(first_std_mask[..., None], self.std[0], std)
        return std

    # Leave inference mode: a buffer made in it cannot be written to later.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _track(self, sigma: Tensor) -> None:
        """Move ``std`` towards the mean of ``sigma``, (..., positions), unless a switch has frozen it."""
        if self.per_position is None:
            moved = self._moved(self.std, sigma)
        else:
            first, others = self._moved(self.std[:1], sigma[..., :1]), self._moved(self.std[1:], sigma[..., 1:])
            moved = torch.cat([first, others])
        moved = torch.where(self.is_fixed | self.v_is_fixed, self.std, moved)
        if torch.compiler.is_compiling() or self.std.is_inference():
            # A compiled backward pass may have saved the old buffer to recompute the divisor.
            self.std = moved
        else:
            # In place: hooks and wrappers that hold the buffer see the new value.
            self.std.copy_(moved)

    def _moved(self, old: Tensor, sigma: Tensor) -> Tensor:
        if sigma.numel() == 0:
            return old
        new = sigma.mean().to(old.dtype)
        moved = torch.where(old == 0, new, self.momentum * old + (1 - self.momentum) * new)
        # Ignore batches with infinite values.
        return torch.where(moved.isfinite(), moved, old)

    def fix(self, main: bool = True, values: bool = True) -> None:
        """Switch to the constant ``S``: ``main`` for ordinary calls, ``values`` for those with ``values=True``.

        Raises:
            ValueError: ``S`` has not been measured.
        """
        if not bool((self.std > 0).all()):
            raise ValueError('FixedStdLayerNorm: S has not been measured; run training batches first, or set `std`')
        if main:
            self.is_fixed.fill_(True)
        if values:
            self.v_is_fixed.fill_(True)

    def drop_first_position(self) -> None:
        """End the special treatment of the first position: it gets the ``S`` of all others."""
        if self.per_position is not None:
            self.std[0] = self.std[-1]

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{self.num_features}, eps={self.eps}, momentum={self.momentum}, per_position={self.per_position}'
