#!/usr/bin/env python
"""Count the parameters of models, part by part, as rows of the table in model_zoo.md.

Examples:
    python tools/analysis_tools/count_params.py configs/_base_/models/dino_r1_*.py
    python tools/analysis_tools/count_params.py configs/dino_r1/dino-r1_swin-t_align_8xb32_12e_coco.py
"""

import argparse
from pathlib import Path

from dinor1.cli.exit_status import run_command
from dinor1.utils.markdown import table_head, table_row

# Column of the table -> sub-modules whose parameters it counts.
PARTS = {
    'backbone': ('backbone',),
    'neck': ('neck',),
    'prompt encoder': ('prompt_encoder',),
    'encoder': ('encoder',),
    'decoder': ('decoder',),
    'head': ('bbox_head',),
    'language model': ('language_model',),
}


def count(model) -> dict[str, int]:
    """Parameters of each of :data:`PARTS`, of the rest (``other``), and of the whole model (``total``)."""
    counts = dict.fromkeys([*PARTS, 'other', 'total'], 0)
    part_of = {module: part for part, modules in PARTS.items() for module in modules}
    # A shared parameter counts once, under its first name, as in named_parameters.
    for name, parameter in model.named_parameters():
        counts[part_of.get(name.split('.')[0], 'other')] += parameter.numel()
        counts['total'] += parameter.numel()
    return counts


def header() -> str:
    """Heading of the table, two lines."""
    return table_head(['model', 'total', *PARTS, 'other'])


def row(config: str, counts: dict[str, int]) -> str:
    """Row of the table, in millions of parameters; cells of parts that the model does not have are empty."""
    cells = [f'{counts[part] / 1e6:.2f}' if counts[part] else '' for part in ['total', *PARTS, 'other']]
    return table_row([f'[{Path(config).stem}]({config})', *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files with a model')
    args = parser.parse_args()

    import dinor1
    from dinor1.registry import MODELS
    from dinor1.utils.config import load_config
    from dinor1.utils.errors import InputError

    dinor1.register_all()
    print(header())
    for config in args.configs:
        cfg = load_config(config)
        if 'model' not in cfg:
            raise InputError(f'{config}: no model in this config; give a config with a model')
        print(row(config, count(MODELS.build(cfg.model))))


if __name__ == '__main__':
    run_command(main)
