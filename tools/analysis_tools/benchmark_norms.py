#!/usr/bin/env python
"""Measure time and memory with LayerNorm, RMSNorm, CRMSNorm, and Unified Normalization (UN) folded into other layers.

The models are a ViT-S/16 and a detector, with random weights. RMSNorm and CRMSNorm in the ViT are exact conversions of
the LayerNorm model. The post-norm layers of the detector cannot be converted; there the norms are replaced, as in a
model that was trained with them. UN is folded where this is exact, and elsewhere becomes a constant scale and shift.
Forward passes alternate; a ratio is the median over the rounds of the ratio within a round. Memory is the peak, beyond
the memory in use before, of a forward pass and of a forward and backward pass in training mode (a folded norm is not
trained).

Examples:
    python tools/analysis_tools/benchmark_norms.py
    python tools/analysis_tools/benchmark_norms.py --models vit-s --threads 1 --clock cpu --out work_dirs/norms.json
"""

import argparse
import statistics

import torch
from torch import Tensor, nn

from dinor1.benchmarks.timing import ratio, take_turns
from dinor1.benchmarks.timing_options import add_timing_options, apply_timing_options
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown

CONFIG = 'configs/_base_/models/dino_r1_swin-t.py'
BASE, FOLDED = 'LN', 'UN, folded'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=['vit-s', 'detector'], default=['vit-s', 'detector'])
    parser.add_argument('--config', default=CONFIG, help=f'config of the detector (default: {CONFIG})')
    parser.add_argument(
        '--size', nargs=2, type=int, default=[480, 640], metavar=('H', 'W'), help='image size of the detector'
    )
    parser.add_argument('--batch', type=int, default=1, help='images per pass (default: 1)')
    add_timing_options(parser, 15, 'passes of every arm')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', metavar='FILE.json', help='also write every number to a file')
    return parser.parse_args()


class Calls:
    """Calls of a model: a forward pass, and a forward and backward pass."""

    def __init__(self, model: nn.Module, arguments: dict) -> None:
        self.model, self.arguments = model.eval(), arguments

    @torch.inference_mode()
    def predict(self) -> None:
        """Run a forward pass."""
        self.model(**self.arguments)

    def train(self) -> None:
        """Run a forward and a backward pass."""
        self.model.train()
        outputs = self.model(**self.arguments)
        logits = outputs.logits if hasattr(outputs, 'logits') else torch.cat([o.flatten() for o in outputs])
        logits.square().mean().backward()
        self.model.zero_grad()
        self.model.eval()


def vit_arms(batch: int, device: str) -> dict[str, Calls]:
    """Build ViT-S/16 (12 layers of width 384, 224 x 224 pixels) with each norm."""
    from transformers import ViTConfig, ViTForImageClassification

    from dinor1.blocks.norm_conversion import fuse_unified_norm, replace_norm, to_pre_crmsnorm, to_pre_rmsnorm

    # Build the model, and convert it.
    sizes = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536)
    model = ViTForImageClassification(ViTConfig(**sizes, num_labels=1000)).eval()
    un = replace_norm(model, cfg=dict(type='UN'))
    models = {
        BASE: model,
        'RMSNorm, converted': to_pre_rmsnorm(model, check=False),
        'CRMSNorm, converted': to_pre_crmsnorm(model, check=False),
        'UN, not folded': un,
        FOLDED: fuse_unified_norm(un, check=False),
    }
    # Give all models the same images.
    images = torch.randn(batch, 3, 224, 224, device=device)
    return _calls(models, dict(pixel_values=images), device)


class Prompted(nn.Module):
    """The detector as a function of tensors: images (bs, 3, H, W) and prompt embeddings (K, C)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and boxes of all decoder layers."""
        from mmdet.structures import DetDataSample

        from dinor1.structures import PromptSet

        size = tuple(images.shape[-2:])
        prompts = PromptSet.from_classes(embeddings, [f'class {i}' for i in range(len(embeddings))])
        samples = [DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size)) for _ in images]
        return self.detector(images, samples, mode='tensor', prompts=prompts)


def detector_arms(config: str, batch: int, size: list[int], device: str) -> dict[str, Calls]:
    """Build the detector of a config with each norm, for images of ``size`` and ten random prompts."""
    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.benchmarks.models import initialise
    from dinor1.blocks.norm_conversion import fuse_unified_norm, replace_norm
    from dinor1.registry import MODELS
    from dinor1.utils.config import load_config

    # Build the detector.
    cfg = load_config(config)
    cfg.model.backbone.pop('init_cfg', None)
    width = cfg.model.transformer.embed_dims
    detector = MODELS.build(cfg.model)
    initialise(detector)
    model = Prompted(detector).eval()
    # Replace its norms.
    un = replace_norm(model, cfg=dict(type='UN'))
    example = (torch.randn(1, 3, 100, 150), torch.randn(3, width))
    models = {
        BASE: model,
        'RMSNorm': replace_norm(model, cfg=dict(type='RMSNorm')),
        'CRMSNorm': replace_norm(model, cfg=dict(type='CRMSNorm')),
        'UN, not folded': un,
        FOLDED: fuse_unified_norm(un, example_inputs=example, check=False),
    }
    inputs = dict(images=torch.randn(batch, 3, *size, device=device), embeddings=torch.randn(10, width, device=device))
    return _calls(models, inputs, device)


def _calls(models: dict[str, nn.Module], arguments: dict, device: str) -> dict[str, Calls]:
    return {name: Calls(model.to(device), arguments) for name, model in models.items()}


def peaks(calls: Calls, arm: str, device: str) -> dict[str, float | None]:
    """Peak MiB of both calls, medians of three; None if the system does not count it or the arm is not trained."""
    from dinor1.benchmarks.memory import peak_memory

    found: dict[str, float | None] = {}
    for kind, call in (('inference', calls.predict), ('training', calls.train)):
        if kind == 'training' and arm == FOLDED:
            found[kind] = None
            continue
        # The first call allocates what stays in memory.
        call()
        values = [peak_memory(call, device) for _ in range(3)]
        found[kind] = None if None in values else statistics.median(values)
    return found


def main() -> None:
    args = parse_args()

    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_json

    # Check the options.
    if min(args.rounds, args.batch, *args.size) < 1:
        raise InputError('--rounds, --batch and --size must be at least 1')
    apply_timing_options(args, [args.device])
    # Record machine and settings.
    torch.manual_seed(0)
    hardware = 'CPU' if args.device == 'cpu' else torch.cuda.get_device_name(args.device)
    record = dict(torch=torch.__version__, device=hardware, threads=torch.get_num_threads(), clock=args.clock)
    record.update(batch=args.batch, size=args.size, rounds=args.rounds, config=args.config, models={})
    # Measure and report each model.
    for name in args.models:
        if name == 'vit-s':
            arms = vit_arms(args.batch, args.device)
        else:
            arms = detector_arms(args.config, args.batch, args.size, args.device)
        passes = {arm: calls.predict for arm, calls in arms.items()}
        measured = take_turns(passes, args.rounds, args.device, args.clock)
        seconds = {arm: one.times for arm, one in measured.items()}
        memory = {arm: peaks(calls, arm, args.device) for arm, calls in arms.items()}
        record['models'][name] = dict(seconds=seconds, memory_mib=memory)
        print(f'\n{name}, batch {args.batch}, {hardware}')
        rows = []
        for arm, times in seconds.items():
            peak = ['' if value is None else f'{value:.0f}' for value in memory[arm].values()]
            rows.append([arm, f'{1e3 * statistics.median(times):.1f}', f'{ratio(times, seconds[BASE]):.3f}', *peak])
        print(
            markdown.table(['norm', 'ms per pass', 'relative to LN', 'peak MiB of a pass', 'of a training step'], rows)
        )
    if args.out:
        write_json(record, args.out, indent=2)


if __name__ == '__main__':
    run_command(main)
