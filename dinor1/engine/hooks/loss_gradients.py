"""Gradient norm of each term of the loss, and the number of queries that it affects.

DINO-R1 (arXiv 2505.24025) adds its reward to the detection losses with a weight of 0.01. The effect of the reward
depends on its gradient, not on its value: a large loss may have a small gradient. The paper does not measure this.
"""

import copy
import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from dinor1.engine.preserve import preserved
from dinor1.models import GRQOLoss
from dinor1.registry import HOOKS
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json, write_json

# Term -> pattern of the names of its losses, which are summed over the decoder layers.
TERMS = {
    'class': r'(d\d+\.)?loss_cls',
    'box': r'(d\d+\.)?loss_(bbox|iou)',
    'encoder': r'enc_loss_(cls|bbox|iou)',
    'denoising': r'(d\d+\.)?dn_loss_.*',
    'alignment': r'loss_alignment',
}
# Patterns of the optional losses; a model has only those of its config.
FORMS = {
    'ranking': r'(d\d+\.|enc_)?loss_ranking',
    'one_to_many': r'(d\d+\.)?loss_one_to_many',
    'exemplar_group': r'(d\d+\.)?loss_exemplar_group',
}
_GRQO = r'(d\d+\.)?loss_grqo'
_ADDED = '|'.join([_GRQO, *FORMS.values()])
_FILE = 'loss_gradients.json'


@HOOKS.register_module()
class LossGradientHook(Hook):
    """Measures the gradient of every term of the loss, every ``interval`` iterations.

    Before such an iteration, its batch also runs through the model for the measurement, with the same random numbers.
    Buffers, random state and the positions of samplers and noise are restored, so that the training is bitwise the same
    with and without the hook. A measurement costs about as much as six iterations, or eight while GRQO is enabled.

    For each term, weighted as in the loss, the hook measures the norm of its gradient with respect to all trainable
    weights, the cosine to the gradient of the sum of the detection losses, and the number of queries that it affects.
    That number is the participation ratio (sum g)^2 / sum g^2 of the norms g of its gradient with respect to the
    decoder's outputs, per layer and image: 1 if one query has the whole gradient, Q if all queries have equal shares.
    Terms are ``class``, ``box``, ``encoder``, ``denoising``, ``alignment``, those of :data:`FORMS` and, separately,
    GRQO's ``advantage`` and ``kl``. While GRQO is not enabled, ``advantage`` is the gradient that the default reward
    would have.

    Results are written to ``loss_gradients.json`` in the work directory, with GRQO's statistics; norms are also logged
    as training scalars ``gradient/TERM``. In distributed training the results are those of the main process.

    Args:
        interval: Iterations between two measurements, the first at iteration 0.

    Raises:
        InputError: ``interval`` is below 1.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 125) -> None:
        if interval < 1:
            raise InputError(f'LossGradientHook: interval must be at least 1, got {interval}')
        self.interval = interval
        self.records: list[dict[str, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Check that the model can be measured; after a resume, continue the file of the run.

        Raises:
            InputError: the model is sharded, or is not a detector that GRQO can train.
        """
        # Check the model.
        if isinstance(runner.model, FullyShardedDataParallel):
            raise InputError('LossGradientHook: a sharded model has no gradient of a single term; remove the hook')
        if not hasattr(unwrapped(runner.model), 'loss_and_output'):
            raise InputError(
                f'LossGradientHook: {type(runner.model).__name__} cannot be trained with GRQO; remove the hook'
            )
        # After a resume, keep the records of the iterations before it.
        path = Path(runner.work_dir) / _FILE
        if runner.iter and path.is_file():
            self.records = [record for record in read_json(path) if record['iter'] < runner.iter]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Measure, every ``interval`` iterations."""
        if runner.iter % self.interval:
            return
        # Measure in the precision of the training.
        with runner.optim_wrapper.optim_context(runner.model):
            measured = measure_terms(unwrapped(runner.model), data_batch)
        # Record and log the results.
        self.records.append(dict(iter=runner.iter, **measured))
        for term, value in measured['norm'].items():
            runner.message_hub.update_scalar(f'train/gradient/{term}', value)
        if is_main_process():
            write_json(self.records, Path(runner.work_dir) / _FILE)


def measure_terms(model: Any, data_batch: dict) -> dict[str, Any]:
    """Gradients of the terms of one batch; the model does not change.

    Args:
        model: A :class:`dinor1.models.DINOR1` or ``DINOGRQO``, in training mode.
        data_batch: Batch of the data loader; not modified.

    Returns:
        ``norm``, ``cosine`` and ``queries``, each by term; ``alpha`` of the advantage; ``figures``, GRQO's statistics.
    """
    # Where GRQO is not active, measure its terms with default settings.
    head = model.bbox_head
    own = head.loss_grqo
    active = head.active_grqo
    grqo = active or GRQOLoss(beta=0.0)
    weights = [p for p in model.parameters() if p.requires_grad]
    result: dict[str, Any] = dict(norm={}, cosine={}, queries={}, alpha=grqo.alpha, figures={})
    with unchanged_detector(model), torch.random.fork_rng(), torch.enable_grad():
        data = model.data_preprocessor(copy.deepcopy(data_batch), True)

        def run(loss: GRQOLoss) -> tuple[dict[str, Tensor], Any]:
            head.loss_grqo = loss
            batch = copy.deepcopy(data)
            with torch.random.fork_rng():
                return model.loss_and_output(batch['inputs'], batch['data_samples'])

        try:
            # Measure all terms except the KL: without it, GRQO's loss is the advantage.
            losses, output = run(grqo.with_weights(beta=0.0))
            detection = [_add(value) for name, value in losses.items() if 'loss' in name and not _is(_ADDED, name)]
            reference = torch.autograd.grad(_total(detection), weights, retain_graph=True, allow_unused=True)
            terms = {term: sum_of_losses(losses, pattern) for term, pattern in (TERMS | FORMS).items()}
            if grqo.alpha > 0:
                terms['advantage'] = sum_of_losses(losses, _GRQO)
            _measure(result, terms, weights, output, reference)
            result['figures'] = {name: float(value) for name, value in losses.items() if name.startswith('grqo_')}
            # Measure the KL.
            if active is not None and active.beta > 0:
                losses, output = run(active.with_weights(alpha=0.0))
                _measure(result, dict(kl=sum_of_losses(losses, _GRQO)), weights, output, reference)
        finally:
            head.loss_grqo = own
    return result


def _measure(
    result: dict[str, Any],
    terms: dict[str, Tensor | None],
    weights: Sequence[Tensor],
    output: Any,
    reference: tuple[Tensor | None, ...],
) -> None:
    """Measure ``terms`` and add them to ``result``.

    Args:
        result: Gets norm, cosine and number of queries of each term.
        terms: Scalar losses by name; None and constants are skipped.
        weights: The trainable weights.
        output: Output of the decoder.
        reference: Gradient of the detection losses, to compare with.
    """
    hidden, num_dn = output.hidden_states, output.denoising.num_queries
    length = _dot(reference, reference).sqrt()
    for term, value in terms.items():
        if value is None or not value.requires_grad:
            continue
        # Differentiate with respect to the weights and to the decoder's outputs.
        *gradients, queries = torch.autograd.grad(value, [*weights, hidden], retain_graph=True, allow_unused=True)
        norm = _dot(gradients, gradients).sqrt()
        result['norm'][term] = norm.item()
        cosine = _dot(gradients, reference) / (norm * length).clamp(min=1e-30)
        result['cosine'][term] = cosine.item()
        if queries is not None:
            result['queries'][term] = participation(queries[:, :, num_dn:].float().norm(dim=-1))


def participation(norms: Tensor) -> float:
    """Mean over groups of the participation ratio (sum g)^2 / sum g^2 in [1, Q]; 0 if all norms are 0.

    Args:
        norms: (..., Q) >= 0; groups whose norms are all 0 do not count.
    """
    square, total = norms.square().sum(-1), norms.sum(-1).square()
    alive = square > 0
    return (total[alive] / square[alive]).mean().item() if bool(alive.any()) else 0.0


def _dot(a: list | tuple, b: list | tuple) -> Tensor:
    products = [(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)


def _is(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name) is not None


def _add(value: Tensor | list[Tensor]) -> Tensor:
    return _total([v.sum() for v in value]) if isinstance(value, list) else value.sum()


def _total(values: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, values)


def sum_of_losses(losses: dict[str, Tensor], pattern: str) -> Tensor | None:
    """Sum of the losses whose names match a pattern; None if there are none."""
    values = [_add(value) for name, value in losses.items() if _is(pattern, name)]
    return _total(values) if values else None


@contextmanager
def unchanged_detector(model: Any) -> Iterator[None]:
    """Preserve the detector and the reference model, which is not one of its modules."""
    reference = model.reference
    # Disable activation checkpointing, as in Swin: it does not support torch.autograd.grad.
    checkpointing = [module for module in model.modules() if getattr(module, 'with_cp', False)]
    for module in checkpointing:
        module.with_cp = False
    try:
        with preserved(model), nullcontext() if reference is None else preserved(reference.model):
            yield
    finally:
        for module in checkpointing:
            module.with_cp = True
