"""Small models with random parameters for the tests of the converters."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dinor1.blocks.norm_conversion.example_inputs import difference
from dinor1.blocks.normalization.registry import is_norm

IMAGES = {'multiple': (48, 48), 'padded': (44, 60)}  # multiples of Swin's windows at every stage, or at none


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, evaluation mode, and no parameter at 0 or 1, which could hide errors."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5
        for name, buffer in model.named_buffers():
            if name.rpartition('.')[2] in ('running_var', 'running_phi', 'running_mad'):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    model.eval()
    return model


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gpt2(layers: int = 2) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    special = dict(bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=16, n_embd=12, n_layer=layers, n_head=3, **special))


def vit(layers: int = 2, **kwargs) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = dict(hidden_size=12, num_hidden_layers=layers, num_attention_heads=3, intermediate_size=20)
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=5, **kwargs))


def swin(**kwargs) -> nn.Module:
    from mmdet.models import SwinTransformer

    torch.manual_seed(0)
    sizes = dict(embed_dims=8, depths=(2, 1), num_heads=(2, 2), window_size=3, strides=(4, 2), out_indices=(0, 1))
    return SwinTransformer(**sizes | kwargs)


class Attention(nn.Module):
    """Attention that derives all widths from the shape of its input, as many code bases do."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bs, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(bs, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(bs, tokens, width))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width: int, heads: int, post: bool, affine: bool, layer_scale: bool) -> None:
        super().__init__()
        self.post = post
        self.norm1 = nn.LayerNorm(width, elementwise_affine=affine)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, elementwise_affine=affine)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Dropout(0.1), nn.Linear(20, width))
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.ls1(self.attn(x)))
            return self.norm2(x + self.ls2(self.mlp(x)))
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PlainViT(nn.Module):
    """A typical ViT: convolution, class token, positions, LayerScale, head on the class token."""

    def __init__(
        self,
        width: int = 12,
        layers: int = 2,
        heads: int = 3,
        post: bool = False,
        affine: bool = True,
        layer_scale: bool = True,
        norm_pre: bool = False,
        mean_pooling: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean_pooling = mean_pooling
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        self.norm_pre = nn.LayerNorm(width) if norm_pre else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width, heads, post, affine, layer_scale) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, elementwise_affine=affine)
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        x = self.blocks(self.norm_pre(x))
        x = self.norm(x)
        return self.head(x.mean(1) if self.mean_pooling else x[:, 0])


def torch_encoder() -> nn.Module:
    """PyTorch's own layers, whose fused kernel must not treat an RMSNorm as LayerNorm."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True, norm_first=True, activation='gelu')
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(5, 12), encoder, nn.Linear(12, 3))


MODELS = {
    'gpt2': gpt2,
    'vit': vit,
    'plain': PlainViT,
    'pooled': lambda: PlainViT(mean_pooling=True, layer_scale=False),
    'torch': torch_encoder,
}


def inputs_of(name: str) -> dict:
    """New inputs, different from a converter's guesses, as keyword arguments."""
    if name == 'gpt2':
        return dict(input_ids=torch.randint(31, (3, 9), generator=torch.Generator().manual_seed(2)))
    if name == 'vit':
        return dict(pixel_values=noise(3, 3, 8, 8))
    return dict(input=noise(3, 7, 5)) if name == 'torch' else dict(images=noise(3, 3, 16, 16))


@torch.no_grad()
def outputs(model: nn.Module, **inputs) -> list[Tensor]:
    result = model(**inputs)
    result = result.logits if hasattr(result, 'logits') else result
    return [result] if isinstance(result, Tensor) else list(result)


def deviation(model: nn.Module, other: nn.Module, **inputs) -> float:
    """Largest difference of the outputs, relative to their largest entry."""
    return difference(outputs(model, **inputs), outputs(other, **inputs))


def norm_calls(model: nn.Module, **inputs) -> int:
    """Number of norms of any kind that run in a forward pass."""
    calls = []
    norms: Iterator[nn.Module] = (module for module in model.modules() if is_norm(module))
    handles = [norm.register_forward_hook(lambda *_: calls.append(1)) for norm in norms]
    outputs(model, **inputs)
    for handle in handles:
        handle.remove()
    return len(calls)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
