"""Any model of timm as a backbone."""

import difflib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

from .efficientnet_lite import packaged_weights
from .freezing import layers_up_to
from .timm_weights import fit_to_features, read_weights


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature levels of a model of timm (R. Wightman, https://github.com/huggingface/pytorch-image-models).

    :meth:`init_weights` loads the pretrained weights when a training starts; building the model for a checkpoint
    needs none. A plain vision transformer has levels of one stride only: use
    :class:`~dinor1.models.backbones.SimpleFeaturePyramid` as the neck, and set
    ``model_args=dict(dynamic_img_size=True, dynamic_img_pad=True)`` for images of any size.

    Args:
        model_name: Name in timm, such as ``tf_efficientnet_lite0``, with or without the tag of its weights.
        out_indices: Indices of the feature levels to return, in increasing order. Level 0 has the highest resolution;
            most convolutional networks have levels of stride 2, 4, 8, 16 and 32, and a vision transformer one per
            block.
        pretrained: False: no weights. True: timm's weights, from the Hugging Face hub. ``package``: weights from an
            installed package of the extra ``lite``. Any other string is the path of a file, see
            :func:`~dinor1.models.backbones.timm_weights.read_weights`.
        frozen_stages: Index of a feature level, or name of a module in ``body``, such as ``blocks.4.0``. All layers up
            to and including it, in the order in which the network registers them, are not trained and stay in
            evaluation mode. -1: none. For a ResNet, the index has the same meaning as in MMDetection.
        norm_eval: Keep all batch-norm layers in evaluation mode: their running statistics do not change.
        drop_path_rate: Probability in [0, 1) of stochastic depth in the last block; it grows from 0 in the first block.
        model_args: Further arguments of ``timm.create_model``.
        init_cfg: MMEngine's initialisation; not together with ``pretrained``.

    Attributes:
        body: timm's network without head.
        channels: Number of channels of each returned level.
        strides: Stride of each returned level.

    Raises:
        InputError: timm is not installed or has no such model or levels, or the arguments contradict each other.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int],
        pretrained: bool | str = False,
        frozen_stages: int | str = -1,
        norm_eval: bool = True,
        drop_path_rate: float = 0.0,
        model_args: dict[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.model_name, self.pretrained, self.norm_eval = model_name, pretrained, norm_eval
        self._model_args = dict(model_args or {}, out_indices=tuple(out_indices))
        # Check the arguments that timm accepts silently or rejects with an assertion.
        if pretrained and init_cfg is not None:
            raise InputError(f'backbone {model_name}: pretrained and init_cfg exclude each other; give one of them')
        if not 0 <= drop_path_rate < 1:
            raise InputError(f'backbone {model_name}: drop_path_rate must be in [0, 1), got {drop_path_rate}')
        if drop_path_rate:
            # Not all models have this argument.
            self._model_args['drop_path_rate'] = drop_path_rate
        if not out_indices or any(a >= b for a, b in zip((-1, *out_indices), out_indices, strict=False)):
            raise InputError(
                f'backbone {model_name}: out_indices must be indices of levels in increasing order, such as '
                f'(2, 3, 4), got {tuple(out_indices)}'
            )
        # Build the network, and record its levels.
        self.body = self._create()
        levels = self.body.feature_info
        self.channels: tuple[int, ...] = tuple(levels.channels())
        self.strides: tuple[int, ...] = tuple(levels.reduction())
        self._channels_last = getattr(self.body, 'output_fmt', None) == 'NHWC'
        # Freeze its first layers.
        self._frozen: list[str] = []
        if frozen_stages != -1:
            parameters, self._frozen = layers_up_to(self.body, self._module_name(frozen_stages, levels.info))
            for parameter in parameters:
                parameter.requires_grad = False

    def init_weights(self) -> None:
        """Load the pretrained weights, if any; otherwise initialise as ``init_cfg`` says.

        Raises:
            InputError: the weights cannot be read or downloaded, or do not fit the network.
        """
        load = bool(self.pretrained) and not self.is_init
        super().init_weights()
        if not load:
            return
        # Load the weights from timm's hub, or from a package or file.
        if self.pretrained is True:
            self.body.load_state_dict(self._create(pretrained=True).state_dict())
            return
        path = packaged_weights(self.model_name) if self.pretrained == 'package' else str(self.pretrained)
        self.body.load_state_dict(fit_to_features(read_weights(path), self.body.state_dict(), path))

    def train(self, mode: bool = True) -> 'TimmBackbone':
        """Set the mode of all layers; frozen layers, and with ``norm_eval`` batch norm, stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.body.get_submodule(name).training = False
        if self.norm_eval:
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of a batch of images.

        Args:
            images: (bs, 3, H, W), normalised as the pretrained weights expect.

        Returns:
            Level ``i`` as (bs, ``channels[i]``, H / ``strides[i]``, W / ``strides[i]``), rounded up by most networks.
        """
        features = self.body(images)
        if self._channels_last:
            features = [level.permute(0, 3, 1, 2).contiguous() for level in features]
        return tuple(features)

    def _create(self, pretrained: bool = False) -> Any:
        """Build the network, with the weights of timm's hub if ``pretrained``.

        Raises:
            InputError: timm is not installed, has no such model, or cannot build it.
        """
        # Check the name, and suggest a similar one.
        timm = _import_timm()
        if not timm.is_model(self.model_name):
            close = difflib.get_close_matches(self.model_name, timm.list_models(), n=1)
            hint = f'did you mean {close[0]!r}?' if close else 'timm.list_models() lists all names'
            raise InputError(f'backbone: timm {timm.__version__} has no model {self.model_name!r}; {hint}')
        # Build the network, and convert any failure into an error that states what to do.
        try:
            return timm.create_model(self.model_name, pretrained=pretrained, features_only=True, **self._model_args)
        except Exception as error:
            # Every network of timm raises different exceptions, so that all types are caught.
            reason = ': '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:160]
            what = f'backbone {self.model_name}: timm cannot {"fetch its weights" if pretrained else "build it"}'
            if pretrained:
                remedy = 'check the network connection, or set pretrained to a file, or to False to load a checkpoint'
            elif isinstance(error, IndexError | AssertionError):
                remedy = f'check out_indices={self._model_args["out_indices"]}{_count_levels(timm, self.model_name)}'
            else:
                remedy = 'check model_args and drop_path_rate'
            raise InputError(f'{what} ({reason}); {remedy}') from error

    def _module_name(self, frozen_stages: int | str, levels: list[dict[str, Any]]) -> str:
        """Name of the last module to freeze.

        Raises:
            InputError: there is no such level or module.
        """
        # A string is the name of a module.
        names = dict(self.body.named_modules())
        if isinstance(frozen_stages, str):
            if frozen_stages not in names:
                close = difflib.get_close_matches(frozen_stages, names, n=1, cutoff=0)
                raise InputError(
                    f'backbone {self.model_name}: frozen_stages={frozen_stages!r} is not the name of a module; did you '
                    f'mean {close[0]!r}?'
                )
            return frozen_stages
        # A number is the index of a level, which ends with a module.
        if not 0 <= frozen_stages < len(levels):
            raise InputError(
                f'backbone {self.model_name}: frozen_stages must be -1 or the index of one of its {len(levels)} '
                f'levels, got {frozen_stages}'
            )
        level = str(levels[frozen_stages]['module'])
        # timm wraps the network as `model` or `body`, or joins the names of its first two levels.
        for name in (level, f'model.{level}', f'body.{level}', level.replace('.', '_', 1)):
            if name in names:
                return name
        raise InputError(
            f'backbone {self.model_name}: level {frozen_stages} is not a module of the network that out_indices '
            'selects; set frozen_stages to the name of a module'
        )


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise InputError("TimmBackbone needs timm, which is not installed; run pip install 'dinor1[lite]'") from None
    return timm


def _count_levels(timm: ModuleType, model_name: str) -> str:
    """The number of feature levels of a model, as the end of an error message; empty if it cannot be determined."""
    try:
        count = len(timm.create_model(model_name, features_only=True).feature_info.info)
    except Exception:
        return ''
    return f', it has {count} levels, of index 0 to {count - 1}'
