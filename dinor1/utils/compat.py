"""Gaps in third-party packages: one function per gap, all called by :func:`apply`.

:func:`dinor1.register_all` and the lazy exports of :mod:`dinor1.utils.lazy` call it. The docstring of each function
states what is missing, since which release, and until when it is needed; if nothing is missing, it does nothing.
Importing this module changes nothing and is cheap: the functions import the packages that they need.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator


def apply() -> None:
    """Fill every gap. Idempotent."""
    fill_mmcv_ext()
    fill_tokenizer_batch_encode_plus()
    fill_lvis_numpy_float()
    silence_onedl_message()
    fill_bert_pairwise_mask()
    trust_one_cycle_scheduler()


# -----------------------------------------------------------------------------------------------------------
# mmcv: compiled operators


def fill_mmcv_ext() -> None:
    """Put :mod:`dinor1.ops.mmcv_ext` at ``mmcv._ext`` where MMCV came without its compiled operators.

    What: ``mmcv.ops``, and with it every MMDetection model, cannot be imported without the extension, because MMCV
    looks up all its operators at import. MMCV's deformable attention on a CPU is also replaced by
    :func:`dinor1.ops.ms_deform_attn`, which has the same result, is faster and checks its input.
    Since: always, for a plain ``pip install``; a build with operators exists only for some torch releases.
    Until: when MMCV looks up its operators where they are called.
    """
    if importlib.util.find_spec('mmcv._ext') is not None:
        return
    import mmcv

    from dinor1.ops import mmcv_ext

    mmcv._ext = sys.modules['mmcv._ext'] = mmcv_ext.make_stand_in()

    from mmcv.ops import multi_scale_deform_attn

    original = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch

    @functools.wraps(original)
    def multi_scale_deformable_attn_pytorch(*args, **kwargs):
        return mmcv_ext.multi_scale_deformable_attn_pytorch(*args, **kwargs)

    multi_scale_deform_attn.multi_scale_deformable_attn_pytorch = multi_scale_deformable_attn_pytorch


@contextlib.contextmanager
def mmcv_attention() -> Iterator[None]:
    """Context in which MMCV's attention module uses MMCV's own implementation on a CPU."""
    from mmcv.ops import multi_scale_deform_attn as module

    ours = module.multi_scale_deformable_attn_pytorch
    module.multi_scale_deformable_attn_pytorch = getattr(ours, '__wrapped__', ours)
    try:
        yield
    finally:
        module.multi_scale_deformable_attn_pytorch = ours


def has_mmcv_operators() -> bool:
    """Whether MMCV came with its compiled operators."""
    spec = importlib.util.find_spec('mmcv._ext')
    # The stand-in has a module specification too, but no loader.
    return spec is not None and spec.loader is not None


# -----------------------------------------------------------------------------------------------------------
# transformers


def fill_tokenizer_batch_encode_plus() -> None:
    """Give Hugging Face tokenizers back ``batch_encode_plus``, which MMDetection's ``BertModel`` calls.

    What: the method was equivalent to calling the tokenizer on a list of texts. MMEngine imports transformers together
    with its optimizers, so that importing it here costs nothing more.
    Since: transformers 5.0.
    Until: when MMDetection calls the tokenizer itself.
    """
    from transformers import PreTrainedTokenizerBase

    if hasattr(PreTrainedTokenizerBase, 'batch_encode_plus'):
        return

    def batch_encode_plus(self, batch_text_or_text_pairs, **kwargs):
        return self(batch_text_or_text_pairs, **kwargs)

    PreTrainedTokenizerBase.batch_encode_plus = batch_encode_plus


# -----------------------------------------------------------------------------------------------------------
# lvis


def fill_lvis_numpy_float() -> None:
    """Give ``lvis.eval`` the name ``np.float``, which NumPy has removed.

    What: ``LVISEval.accumulate`` casts to ``np.float``. Its module gets a copy of NumPy's namespace with that name, and
    NumPy itself is not changed.
    Since: NumPy 1.24, with lvis up to 0.5.3.
    Until: when lvis writes ``float``.
    """
    import numpy as np

    if 'float' in vars(np):
        return
    import lvis.eval

    namespace = types.ModuleType('numpy', 'NumPy with the names that lvis needs.')
    vars(namespace).update(vars(np), float=float)
    lvis.eval.np = namespace


# -----------------------------------------------------------------------------------------------------------
# mmdet


def silence_onedl_message() -> None:
    """Import ``mmdet.datasets`` once without its two lines "Could not import OneDL" on standard output.

    What: MMDetection logs them at debug level but without a logger, which prints messages of every level. All commands
    would print them first, also those whose output is JSON.
    Since: onedl-mmdetection 3.4.5 or earlier, where the optional package ``onedl`` is not installed.
    Until: when MMDetection gives the message a logger.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module('mmdet.datasets')


def fill_bert_pairwise_mask() -> None:
    """Let MMDetection's ``BertModel`` keep the phrases of a caption apart (``use_sub_sentence_represent``).

    What: for Grounding DINO it hands Hugging Face's BERT a mask of token pairs, (bs, num_tokens, num_tokens).
    BERT now takes either a mask of tokens, (bs, num_tokens), or an additive one that has an axis for heads.
    Since: transformers 5.0.
    Until: when MMDetection passes four axes.
    """
    import torch
    import transformers
    from mmdet.models.language_models.bert import BertEncoder

    if int(transformers.__version__.split('.')[0]) < 5 or hasattr(BertEncoder.forward, '__wrapped__'):
        return
    forward = BertEncoder.forward

    @functools.wraps(forward)
    def forward_with_heads_axis(self, x: dict) -> dict:
        mask = x['attention_mask']
        if mask.dim() != 3:
            return forward(self, x)
        dtype = next(self.parameters()).dtype
        additive = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask.bool(), torch.finfo(dtype).min)
        results = forward(self, dict(x, attention_mask=additive[:, None]))
        results['masks'] = mask  # the detector's own text layers go on with the mask of pairs
        return results

    BertEncoder.forward = forward_with_heads_axis


# -----------------------------------------------------------------------------------------------------------
# mmengine


def trust_one_cycle_scheduler() -> None:
    """Let torch's safe mode load checkpoints of runs with a one-cycle schedule.

    What: such a checkpoint contains a class of MMEngine that is missing from MMEngine's list of safe classes; loading
    it printed a long warning and fell back to the unsafe mode.
    Since: torch 2.6, whose default is the safe mode.
    Until: when MMEngine lists the class.
    """
    import torch
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    torch.serialization.add_safe_globals([OneCycleParamScheduler])
