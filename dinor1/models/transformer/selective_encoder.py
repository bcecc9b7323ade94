"""Encoder in which image features attend only to prompts that the image seems to show.

B. Qian, D. Shi, X. Wei, *DETR-ViP*, arXiv 2604.14684. With full fusion, image features depend on every prompt that is
offered, whether or not the image shows its class, and therefore on the number of prompts. Here a prompt takes part in
the fusion only if a token of the image is similar to it.
"""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleDict, ModuleList
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.structures import EncoderOutput, ImageFeatures, PromptBatch
from dinor1.utils.errors import InputError

from .dims import TransformerDims
from .encoder import ImageEncoderLayer, image_arguments, refine_at
from .fusion import PromptFusionBlock
from .image_tokens import reference_points
from .query_selection import score_tokens
from .similarity import PromptSimilarity, selective_gate

FUSIONS = ('none', 'full', 'selective')


class FusionGate(BaseModule):
    """Similarity of image tokens to prompts, with a map and norms of its own.

    The tokens are treated as in query selection: those that cannot become queries are zero before the map.

    Args:
        dims: Sizes of the transformer.
    """

    def __init__(self, dims: TransformerDims, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = nn.Linear(dims.embed_dims, dims.embed_dims)
        self.norm = build_norm_layer(dims.norm_cfg, dims.embed_dims)[1]
        self.similarity = PromptSimilarity(query_map=dims.embed_dims)

    def forward(self, memory: Tensor, features: ImageFeatures, prompts: PromptBatch) -> Tensor:
        """Logits (bs, T, K) of the tokens (bs, T, C), in single precision; -inf where a prompt is not offered."""
        return score_tokens(
            memory, features, prompts, lambda tokens: self.norm(self.fc(tokens)), self.similarity
        ).logits


@MODELS.register_module()
class SelectiveEncoder(BaseModule):
    """Layers of deformable image self-attention, the last ones with image-prompt fusion before it.

    In contrast to :class:`~dinor1.models.transformer.PromptedEncoder`, prompts have neither self-attention nor a
    feed-forward network, so that no prompt depends on another one. Layers and fusion blocks have the parameter names of
    MMDetection's ``GroundingDinoTransformerEncoder``, with the same layer numbers.

    The gates are hard and have no gradient; their similarities are trained by a loss of the head. Prompts attend to
    the image whether or not their gate is open. An image without any open gate is only normalised by the fusion block.

    Args:
        dims: Sizes of the transformer, the same as for the decoder.
        num_layers: Number of layers.
        encoder_fusion: ``none``: image features do not depend on prompts, and prompts are not refined. ``full``: image
            features attend to all prompts that are offered. ``selective``: only to those with an open gate.
        num_fusion_layers: Number of last layers that begin with fusion, at most ``num_layers``.
        fusion_threshold: Probability in [0, 1] that the most similar token must exceed to open a gate.
        fusion: Arguments of :class:`~dinor1.models.transformer.fusion.PromptFusionBlock`.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        dims: TransformerDims,
        num_layers: int = 6,
        encoder_fusion: str = 'selective',
        num_fusion_layers: int = 3,
        fusion_threshold: float = 0.1,
        fusion: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_fusion('model.encoder.encoder_fusion', encoder_fusion, fusion_threshold)
        if encoder_fusion != 'none' and not 1 <= num_fusion_layers <= num_layers:
            raise InputError(
                f'model.encoder.num_fusion_layers must be from 1 to num_layers={num_layers}, got {num_fusion_layers}; '
                "for no fusion set encoder_fusion='none'"
            )
        self.embed_dims, self.num_layers, self.fusion_threshold = dims.embed_dims, num_layers, fusion_threshold
        # Build the layers, and the fusion blocks and gates under the number of their layer.
        fused = [] if encoder_fusion == 'none' else range(num_layers - num_fusion_layers, num_layers)
        fusion = dict(num_heads=dims.num_heads // 2, norm_cfg=dims.norm_cfg) | (fusion or {})
        self.layers = ModuleList(
            ImageEncoderLayer(dims.deformable_attention(), dims.ffn(), dict(dims.norm_cfg)) for _ in range(num_layers)
        )
        self.fusion_layers = ModuleDict({str(i): PromptFusionBlock(dims.embed_dims, **fusion) for i in fused})
        gated = fused if encoder_fusion == 'selective' else []
        self.gates = ModuleDict({str(i): FusionGate(dims) for i in gated})

    def forward(
        self,
        features: ImageFeatures,
        prompts: PromptBatch,
        tokens: Tensor | None = None,
        gates: Sequence[Tensor] = (),
    ) -> EncoderOutput:
        """Encode.

        Args:
            features: Features of the batch.
            prompts: Prompts of the batch.
            tokens: As in :class:`~dinor1.models.transformer.PromptedEncoder`.
            gates: One mask (bs, 1, K) per fusion block, True = open, to use instead of the encoder's own gates; empty:
                compute them.
        """
        # Run the layers; the last ones begin with fusion.
        points, memory = reference_points(features), features.feat
        used: list[Tensor] = []
        logits: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if str(i) in self.fusion_layers:
                gate = None
                if str(i) in self.gates:
                    # Compute the gates, or take the given ones.
                    if gates:
                        gate = gates[len(used)]
                    else:
                        logits.append(self.gates[str(i)](memory, features, prompts))
                        gate = selective_gate(logits[-1], prompts.mask, self.fusion_threshold)
                    used.append(gate)
                memory, embeddings = self.fusion_layers[str(i)](
                    memory, prompts.embeddings, features.padding_mask, ~prompts.mask, gate
                )
                prompts = prompts._replace(embeddings=embeddings)
            if tokens is not None and i == self.num_layers - 1:
                memory = refine_at(tokens, layer, memory, points, features)
            else:
                memory = layer(
                    query=memory, query_pos=features.pos, reference_points=points, **image_arguments(features)
                )
        return EncoderOutput(memory, prompts, tuple(used), tuple(logits))


def check_fusion(name: str, fusion: str, threshold: float) -> None:
    """Check a kind of fusion and the threshold of its gates.

    Raises:
        InputError: the kind is unknown, or the threshold is not a probability.
    """
    if fusion not in FUSIONS:
        raise InputError(f"{name} must be 'none', 'full' or 'selective', got {fusion!r}")
    if not 0 <= threshold <= 1:
        part = name.rpartition('.')[0]
        raise InputError(f'{part}.fusion_threshold must be a probability in [0, 1], got {threshold!r}')
