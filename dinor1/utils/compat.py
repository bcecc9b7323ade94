"""Fixes for third-party packages: one function per missing feature or defect, all called by :func:`apply`.

:func:`dinor1.register_all` and the lazy exports of :mod:`dinor1.utils.lazy` call :func:`apply`. The docstring of each
function states what it fixes, since which release the fix is needed, and until when. A function does nothing if
nothing is missing. Importing this module changes nothing and is cheap: the functions import the packages they need.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dinor1.utils.config_files import CONFIGS


def apply() -> None:
    """Apply every fix. Idempotent."""
    with deferred_imports():
        fill_mmcv_ext()
        silence_onedl_message()
        importlib.import_module('mmdet.models')
    import_transformers_with_language_models()
    fill_lvis_numpy_float()
    load_checkpoints_safely()
    let_configs_inherit_from_dinor1()


# -----------------------------------------------------------------------------------------------------------
# imports that take long and are rarely used


class _Deferred(types.ModuleType):
    """Placeholder of a module. Its attributes are functions that import the module when they are called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        submodule = sys.modules.get(f'{self.__name__}.{name}')
        if submodule is not None:
            return submodule

        # Import the module when the function is called for the first time.
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return call


@contextlib.contextmanager
def deferred_imports() -> Iterator[None]:
    """Context in which MMEngine and MMDetection are imported without transformers, imgaug and tifffile.

    What: MMEngine imports transformers for one optimizer, and MMDetection for its language models; MMDetection imports
    imgaug for a transform for lane detection, and MMCV imports tifffile for one of its image backends. These imports
    take a third of the time of importing the detector. Here, imgaug and tifffile are imported when they are used; for
    transformers see :func:`import_transformers_with_language_models`. Before release 5, transformers is not deferred,
    because MMDetection's GLIP, which does not work with later releases, inherits from its classes.
    Since: onedl-mmengine 0.10.12, onedl-mmcv 2.3.6 and onedl-mmdetection 3.4.5, or earlier.
    Until: these packages import them where they are used.
    """
    # Put placeholders in the place of modules that are not loaded yet.
    names = ('imgaug', 'imgaug.augmenters', 'imgaug.augmentables.lines', 'imgaug.augmentables.segmaps', 'tifffile')
    absent: dict[str, Any] = {name: _Deferred(name) for name in names if name.split('.')[0] not in sys.modules}
    if 'transformers' not in sys.modules and _major_release('transformers') >= 5:
        absent['transformers'] = None  # an ImportError, which MMEngine and MMDetection expect
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _major_release(package: str) -> int:
    """First number of the version of a package; 0 if the package is not installed."""
    try:
        return int(importlib.metadata.version(package).split('.')[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def import_transformers_with_language_models() -> None:
    """Import and fix transformers when MMDetection's ``BertModel`` or a tokenizing transform is built.

    What: see :func:`deferred_imports`. ``Adafactor`` of transformers is registered as a function that imports it.
    """
    from mmdet.datasets.transforms import text_transformers
    from mmdet.models.language_models import bert
    from mmengine.registry import OPTIMIZERS

    # Delay the import until one of the components is built.
    for component in (bert.BertModel, text_transformers.RandomSamplingNegPos):
        if not hasattr(component.__init__, '__wrapped__'):
            component.__init__ = _after(fill_transformers, component.__init__)
    # MMEngine registers Adafactor only if it can import transformers, which is delayed.
    if 'Adafactor' not in OPTIMIZERS and _major_release('transformers'):
        OPTIMIZERS.register_module(name='Adafactor', module=_adafactor)


def _after(prepare: Callable[[], None], function: Callable) -> Callable:
    """Return a function that calls ``prepare`` and then ``function``."""

    @functools.wraps(function)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        prepare()
        return function(*args, **kwargs)

    return prepared


def _adafactor(*args: Any, **kwargs: Any) -> Any:
    """Build the optimizer Adafactor of transformers."""
    from transformers import Adafactor

    return Adafactor(*args, **kwargs)


def fill_transformers() -> None:
    """Import transformers, set the names that MMDetection imports from it, and apply the fixes. Idempotent."""
    import transformers
    from mmdet.datasets.transforms import text_transformers
    from mmdet.models.language_models import bert

    if bert.AutoTokenizer is None:
        for module in (bert, text_transformers):
            module.AutoTokenizer, module.HFBertModel = transformers.AutoTokenizer, transformers.BertModel
        bert.BertConfig = transformers.BertConfig
    fill_tokenizer_batch_encode_plus()
    fill_bert_pairwise_mask()


# -----------------------------------------------------------------------------------------------------------
# mmcv: compiled operators


def fill_mmcv_ext() -> None:
    """Use :mod:`dinor1.ops.mmcv_ext` as ``mmcv._ext`` if MMCV is installed without its compiled operators.

    What: ``mmcv.ops``, and with it every MMDetection model, cannot be imported without the extension, because MMCV
    looks up all its operators at import. MMCV's deformable attention on a CPU is also replaced by
    :func:`dinor1.ops.ms_deform_attn`, which has the same result, is faster and checks its input.
    Since: always, for a plain ``pip install``; a build with operators exists only for some torch releases.
    Until: MMCV looks up its operators where they are called.
    """
    if importlib.util.find_spec('mmcv._ext') is not None:
        return
    import mmcv

    from dinor1.ops import mmcv_ext

    mmcv._ext = sys.modules['mmcv._ext'] = mmcv_ext.make_stand_in()

    # Replace the attention, and keep MMCV's own for mmcv_attention().
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
    """Whether MMCV is installed with its compiled operators."""
    spec = importlib.util.find_spec('mmcv._ext')
    # The replacement has a module specification too, but no loader.
    return spec is not None and spec.loader is not None


# -----------------------------------------------------------------------------------------------------------
# transformers


def fill_tokenizer_batch_encode_plus() -> None:
    """Restore ``batch_encode_plus`` of Hugging Face tokenizers, which MMDetection's ``BertModel`` calls.

    What: the method was equivalent to calling the tokenizer on a list of texts.
    Since: transformers 5.0.
    Until: MMDetection calls the tokenizer itself.
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
    """Define ``np.float``, which NumPy has removed, in ``lvis.eval``.

    What: ``LVISEval.accumulate`` casts to ``np.float``. Its module gets a copy of NumPy's namespace with that name;
    NumPy itself is not changed.
    Since: NumPy 1.24, with lvis up to 0.5.3.
    Until: lvis uses ``float``.
    """
    import numpy as np

    if 'float' in vars(np):
        return
    import lvis.eval

    # Give lvis a copy of the namespace, so that NumPy itself does not change.
    namespace = types.ModuleType('numpy', 'NumPy with the names that lvis needs.')
    vars(namespace).update(vars(np), float=float)
    lvis.eval.np = namespace


# -----------------------------------------------------------------------------------------------------------
# mmdet


def silence_onedl_message() -> None:
    """Import ``mmdet.datasets`` without its two lines "Could not import OneDL" on standard output.

    What: MMDetection logs these lines at debug level but without a logger, which prints messages of every level. Every
    command would print them first, even commands whose output is JSON.
    Since: onedl-mmdetection 3.4.5 or earlier, if the optional package ``onedl`` is not installed.
    Until: MMDetection uses a logger for the message.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module('mmdet.datasets')


def fill_bert_pairwise_mask() -> None:
    """Let MMDetection's ``BertModel`` encode each phrase of a caption separately (``use_sub_sentence_represent``).

    What: for Grounding DINO it passes a mask of token pairs, (bs, num_tokens, num_tokens), to Hugging Face's BERT.
    BERT now takes either a mask of tokens, (bs, num_tokens), or an additive mask with an axis for heads.
    Since: transformers 5.0.
    Until: MMDetection passes four axes.
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
        # Convert to an additive mask with an axis for heads.
        dtype = next(self.parameters()).dtype
        additive = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask.bool(), torch.finfo(dtype).min)
        results = forward(self, dict(x, attention_mask=additive[:, None]))
        results['masks'] = mask  # the detector's own text layers need the mask of pairs
        return results

    BertEncoder.forward = forward_with_heads_axis


# -----------------------------------------------------------------------------------------------------------
# mmengine


def load_checkpoints_safely() -> None:
    """Let MMEngine read checkpoints through :mod:`dinor1.utils.checkpoint_file` only.

    What: if torch's safe mode rejects a checkpoint, MMEngine falls back to the unsafe mode, in which a file can run any
    code; downloaded files are always loaded in the unsafe mode.
    Since: always.
    Until: MMEngine does not fall back.
    """
    from mmengine.runner import checkpoint

    from dinor1.utils.checkpoint_file import load_file, load_url
    from dinor1.utils.released_weights import SCHEME, load_from_released

    checkpoint._safe_torch_load, checkpoint.load_url = load_file, load_url
    checkpoint.CheckpointLoader.register_scheme(SCHEME, load_from_released, force=True)


def let_configs_inherit_from_dinor1() -> None:
    """Let configs of other projects inherit from ours: ``_base_ = 'dinor1::dino_r1/NAME.py'``.

    What: MMEngine rejects packages that are not on its list, and looks up configs in an index of metafiles.
    Since: always.
    Until: MMEngine finds files of any installed package.
    """
    from mmengine.config import config
    from mmengine.config.utils import MODULE2PACKAGE

    if 'dinor1' in MODULE2PACKAGE:
        return
    # Tell MMEngine the name of the package.
    MODULE2PACKAGE['dinor1'] = 'dinor1'
    original = config._get_external_cfg_path

    # Find our configs in their folder, and leave other packages to MMEngine.
    @functools.wraps(original)
    def get_external_cfg_path(package_path: str, cfg_file: str) -> str:
        ours = Path(package_path).resolve() == CONFIGS.parents[1].resolve()
        return str(CONFIGS / cfg_file) if ours else original(package_path, cfg_file)

    config._get_external_cfg_path = get_external_cfg_path
