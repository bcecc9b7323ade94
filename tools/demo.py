#!/usr/bin/env python
"""Train, measure and use the detector on a generated world, as `make demo` does.

On the icon world, the phases are: generate the data, supervised fine-tuning, GRQO from the first epoch on, measurement
on unseen concepts, and drawings of detections with one exemplar. --world shapes has similar phases on the small shapes
world; the recipes for small sets of photographs start from its checkpoint. After an interruption, start the same
command again: it continues. The output of each phase is written to logs/ in the work directory.

Examples:
    python tools/demo.py
    python tools/demo.py --world shapes
    python tools/demo.py --quick --work-dir work_dirs/demo_quick    # two epochs on 32 images, to test the tools
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dinor1.cli.exit_status import one_line_errors
from dinor1.cli.phases import Phase, run_phases, with_variables
from dinor1.utils.io import read_json
from dinor1.utils.markdown import table

ROOT = Path(__file__).resolve().parents[1]
TITLES = {'sft': 'VIS-GDINO', 'grqo': 'DINO-R1'}
# A longer warm-up of the learning rate: a tenth of so few iterations is too short.
QUICK_SCHEDULE = ('param_scheduler.0.total_steps=2', 'param_scheduler.0.pct_start=0.5')

# The strong recipe of docs/strong_recipe.md.
ICON_CONFIGS = {
    'sft': 'configs/strong/strong_nano-lite0_1xb16_2e_icons.py',
    'grqo': 'configs/strong/strong-grqo_nano-lite0_1xb16_2e_icons.py',
}
# Fewer images of each split.
QUICK_ICONS = ('train=32', 'val_base=4', 'test_base=4', 'val_novel=8', 'test_novel=8', 'test_style=4') + tuple(
    f'support_{split}=8'
    for split in ('base', 'val_novel', 'val_novel_same', 'test_novel', 'test_novel_same', 'test_style_same')
)
# Exemplars per concept, and draws.
DRAWS = ('1=2', '4=1', '16=1')
# Column of the result table -> metric of measure_icons.py on val_novel.
COLUMNS = {
    '1 exemplar, AP': 'cross1/AP',
    '4 exemplars': 'cross4/AP',
    '16 exemplars': 'cross16/AP',
    '16 of the same drawings': 'same16/AP',
    'exemplar on the image, AP50 of the others': 'interactive/without_exemplar_AP50',
    'class-agnostic recall': 'recall',
}

SHAPE_CONFIGS = {
    'sft': 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py',
    'grqo': 'configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py',
}
SHAPE_TESTS = {'base': SHAPE_CONFIGS['sft'], 'novel': 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes-novel.py'}
# Boxes on training images, with their class names.
SHAPE_PROMPTS = (
    'train/000003.png:58,87,120,149:striped square',
    'train/000005.png:19,32,79,92:solid cross',
    'train/000018.png:98,32,158,96:outlined triangle',
)
QUICK_SHAPES = ('--num-train', '40', '--num-val-base', '8', '--num-val-novel', '8', '--num-support-novel', '40')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--world', choices=('icons', 'shapes'), default='icons', help='data set (default: %(default)s)')
    parser.add_argument('--work-dir', help='default: $DEMO_DIR, or work_dirs/demo, or work_dirs/demo_shapes')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='train two epochs on a tiny data set in the work directory, to test the tools',
    )
    return parser.parse_args()


def training_phases(out: Path, configs: dict[str, str], epochs: int, quick: bool) -> list[Phase]:
    """Return the phases of supervised fine-tuning, and of GRQO from its first epoch on."""
    # Start GRQO from the first epoch of SFT, or continue an interrupted run from its own checkpoint.
    begun = (out / 'grqo/last_checkpoint').is_file()
    start = [] if begun else [str(out / 'sft/epoch_1.pth')]
    options = ['--cfg-options', f'train_cfg.max_epochs={epochs}', *QUICK_SCHEDULE] if quick else []
    made = []
    for arm, what, checkpoint in (
        ('sft', 'supervised fine-tuning', []),
        ('grqo', 'GRQO after its first epoch', start),
    ):
        command = ['tools/train.py', configs[arm], '--work-dir', str(out / arm), '--resume', *checkpoint, *options]
        made.append(Phase(arm, f'Train {TITLES[arm]}: {what}', command, out / arm / f'epoch_{epochs}.pth'))
    return made


def icon_phases(out: Path, data: Path, quick: bool) -> list[Phase]:
    """Return the phases of the demo on the icon world, in order."""
    # Generate the data and train.
    root = data / 'icons'
    sizes = ['--sizes', *QUICK_ICONS] if quick else []
    made = [
        Phase(
            'data',
            'Generate the icon world',
            ['-m', 'dinor1', 'make-data', 'icons', '--out', str(root), *sizes],
            root / 'icons.json',
        ),
        *training_phases(out, ICON_CONFIGS, 2, quick),
    ]
    # Measure both detectors on unseen concepts.
    for arm, config in ICON_CONFIGS.items():
        model, file = [config, str(out / arm / 'epoch_2.pth')], out / f'{arm}.json'
        options = ['--draws', *DRAWS, '--interactive-draws', '1', '--out', str(file)]
        command = ['tools/analysis_tools/measure_icons.py', *model, *options]
        made.append(Phase(f'measure_{arm}', f'Measure {TITLES[arm]} on unseen concepts', command, file))
    # Draw detections with one exemplar.
    for name, title, support in (
        ('same_image', 'one exemplar on the image', ''),
        ('other_image', 'one exemplar on another image', 'support_val_novel_same'),
    ):
        files = [str(root / 'annotations/val_novel.json'), str(root / 'images/val_novel')]
        options = ['--score-thr', '0.3', '--model', ICON_CONFIGS['grqo'], str(out / 'grqo/epoch_2.pth')]
        if support:
            options += ['--support', str(root / f'annotations/{support}.json'), str(root / 'images' / support)]
        command = ['tools/analysis_tools/draw_gallery.py', *files, *options, '--out', str(out / f'{name}.png')]
        made.append(Phase(f'draw_{name}', f'Find unseen concepts with {title}', command))
    return made


def shape_phases(out: Path, data: Path, quick: bool) -> list[Phase]:
    """Return the phases of the demo on the shapes world, in order."""
    # Generate the data and train.
    root, epochs = data / 'shapes', 2 if quick else 6
    generate = ['tools/dataset_converters/make_shapes.py', '--out', str(root), *(QUICK_SHAPES if quick else ())]
    made = [Phase('data', 'Generate the shapes world', generate)]
    made += training_phases(out, SHAPE_CONFIGS, epochs, quick)
    # Test both detectors on both sets of categories.
    for arm, title in TITLES.items():
        for split, config in SHAPE_TESTS.items():
            folder = str(out / 'test' / f'{arm}_{split}')
            command = ['tools/test.py', config, str(out / arm / f'epoch_{epochs}.pth'), '--work-dir', folder]
            made.append(Phase(f'test_{arm}_{split}', f'Test {title} on {split} categories', command))
    # Detect by example.
    prompts = [option for prompt in SHAPE_PROMPTS for option in ('--prompt', f'{root}/images/{prompt}')]
    model = ['--config', SHAPE_CONFIGS['grqo'], '--checkpoint', str(out / f'grqo/epoch_{epochs}.pth')]
    detect = ['tools/image_demo.py', f'{root}/images/val_base', *model, '--out-dir', str(out / 'image_demo'), *prompts]
    made.append(Phase('detect', 'Find objects by example', detect))
    return made


def icon_table(out: Path) -> str:
    """Return the measurements of both detectors as a table; '-' where a metric is undefined."""
    rows: list[Sequence[str]] = []
    for arm, title in TITLES.items():
        metrics = read_json(out / f'{arm}.json')['metrics']
        values = [metrics[f'val_novel/{key}'] for key in COLUMNS.values()]
        rows.append([title, *('-' if value < 0 else f'{value:.3f}' for value in values)])
    return table(['detector', *COLUMNS], rows)


def main() -> None:
    args = parse_args()
    folder = args.work_dir or os.environ.get('DEMO_DIR')
    out = Path(folder or {'icons': 'work_dirs/demo', 'shapes': 'work_dirs/demo_shapes'}[args.world]).absolute()
    out = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    os.chdir(ROOT)
    # Let waiting threads spin only briefly, because the workers of the loader need the cores (0.21 instead of 0.24 s
    # per iteration).
    environment = with_variables(GOMP_SPINCOUNT='20000', PYTHONUNBUFFERED='1')
    if args.quick:
        environment['DINOR1_DATA'] = str(out / 'data')
    # Run the phases.
    print(f'The output of each phase: {out}/logs', flush=True)
    data = Path(environment.get('DINOR1_DATA') or 'data')
    phases = icon_phases if args.world == 'icons' else shape_phases
    run_phases(phases(out, data, args.quick), out, environment)

    # Print the results.
    print(flush=True)
    if args.world == 'icons':
        print(f'{icon_table(out)}\n')
        print(f'Unseen concepts, found with one exemplar: {out}/same_image.png {out}/other_image.png')
    else:
        tests = [str(out / 'test' / f'{arm}_{split}') for arm in TITLES for split in SHAPE_TESTS]
        command = [sys.executable, 'tools/analysis_tools/collect_results.py', *tests]
        subprocess.run(command, env=environment, check=True)
        print(f'Detections on test images: {out}/test/*/vis/test.png   Single prompts: {out}/image_demo')
    print(f'Prompts and detections after each epoch: {out}/sft/vis {out}/grqo/vis')


if __name__ == '__main__':
    with one_line_errors():
        main()
