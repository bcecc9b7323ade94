"""A backbone, pooling and a linear head."""

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from dinor1.registry import MODELS


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Classifier with any backbone.

    Args:
        backbone: Config of a module that maps (B, in_channels, H, W) to a vector (B, C), tokens (B, N, C) or feature
            maps (B, C, h, w); of several maps the last is used. Tokens and maps are averaged.
        embed_dims: C. None: the backbone already gives (B, num_classes) logits.
        num_classes: Number of classes.
        dropout: Dropout rate before the linear layer.
        mean: Mean of the pixels, from 0 to 255; the default is MNIST's.
        std: Standard deviation of the pixels; the default is MNIST's.
        init_cfg: Passed to MMEngine's ``BaseModel``.
    """

    def __init__(
        self,
        backbone: dict,
        embed_dims: int | None,
        num_classes: int = 10,
        dropout: float = 0.0,
        mean: float = 33.3,
        std: float = 78.6,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.head = (
            nn.Identity()
            if embed_dims is None
            else nn.Sequential(nn.Dropout(dropout), nn.Linear(embed_dims, num_classes))
        )
        self.mean, self.std = mean, std

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Tensor | dict:
        """Run the model as MMEngine's loops do.

        Args:
            inputs: (B, in_channels, H, W), pixels from 0 to 255 of any dtype.
            labels: (B,) class indices; needed for ``loss``.
            mode: ``loss`` or, for the logits, ``predict`` or ``tensor``.

        Returns:
            ``dict(loss, accuracy)``, or logits (B, num_classes).
        """
        logits = self.logits(inputs)
        if mode == 'loss':
            accuracy = (logits.detach().argmax(1) == labels).float().mean()
            return dict(loss=F.cross_entropy(logits, labels), accuracy=accuracy)
        return logits

    def logits(self, inputs: Tensor) -> Tensor:
        """(B, num_classes) for images (B, in_channels, H, W)."""
        # Use the last level of a backbone with several.
        features = self.backbone((inputs.float() - self.mean) / self.std)
        if isinstance(features, list | tuple):
            features = features[-1]
        # Average over the pixels of a map, or over tokens.
        if features.dim() == 4:
            features = features.mean((2, 3))
        elif features.dim() == 3:
            features = features.mean(1)
        return self.head(features)
