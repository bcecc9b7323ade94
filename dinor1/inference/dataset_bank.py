"""Prompt bank from a data set, written by ``dinor1 bank``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import ProgressBar

from dinor1.evaluation import build_bank, draw_exemplars
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.registry import DATASETS
from dinor1.structures import PromptBank
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output, check_utf8


def write_dataset_bank(
    config: str | Path,
    checkpoint: str | Path,
    out: str,
    num_exemplars: int = 16,
    seed: int = 0,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> tuple[PromptBank, list[str]]:
    """Embed a few instances of every class of the config's ``prompt_dataset``, and write the bank, with a progress bar.

    Args:
        config: Config file, or the name of a config that is part of dinor1.
        checkpoint: Checkpoint file.
        out: File to write, ending in ``.safetensors``.
        num_exemplars: Maximum number of instances per class.
        seed: Seed of the draw.
        device: Device. Default: the GPU if there is one.
        cfg_options: Settings of the config to override, by dotted key.

    Returns:
        The bank, and the names of the classes that are not in it because they have no instance.

    Raises:
        InputError: an argument or a file is invalid, or the config has no ``prompt_dataset``.
    """
    # Check the arguments.
    if not out.endswith('.safetensors'):
        raise InputError(f'--out {out}: expected a file name that ends in .safetensors')
    check_output(out, '--out')
    check_utf8(out, '--out')
    cfg = load_config(config, cfg_options)
    if 'prompt_dataset' not in cfg:
        raise InputError(f'{config}: has no prompt_dataset to draw exemplars from; add one, as in shapes.py')
    # Draw and embed the exemplars.
    model = DINOR1Inferencer(cfg, checkpoint, device).model
    dataset = DATASETS.build(cfg.prompt_dataset)
    exemplars = draw_exemplars(dataset, num_exemplars, seed)
    bar = ProgressBar(len({e.index for e in exemplars}), file=sys.stdout)
    try:
        bank = build_bank(model, dataset, exemplars, progress=bar.update)
    finally:
        print()  # The progress bar does not end its line.
    # Write the bank.
    bank.save(out)
    return bank, [name for name in dataset.metainfo['classes'] if name not in bank.names]
