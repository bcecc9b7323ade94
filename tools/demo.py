#!/usr/bin/env python
"""Train, test and use the detector on the generated shapes world, as `make demo` does.

The phases are: generate the data, supervised fine-tuning, GRQO for the same number of iterations, evaluation with
visual prompts from other images, and drawings of detections. After an interruption, start the same command again: it
continues. The output of each phase is written to logs/ in the work directory.

Examples:
    python tools/demo.py
    python tools/demo.py --quick --work-dir work_dirs/demo_quick    # two epochs on 40 images, to test the tools
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from dinor1.cli.exit_status import one_line_errors
from dinor1.cli.phases import Phase, run_phases, with_variables

ROOT = Path(__file__).resolve().parents[1]
SFT = 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py'
GRQO = 'configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py'
CONFIGS = {'base': SFT, 'novel': 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes-novel.py'}
# Boxes on training images, with their class names.
PROMPTS = (
    'train/000003.png:58,87,120,149:striped square',
    'train/000005.png:19,32,79,92:solid cross',
    'train/000018.png:98,32,158,96:outlined triangle',
)
# A longer warm-up of the learning rate: a tenth of so few iterations is too short.
QUICK_SCHEDULE = ('param_scheduler.0.total_steps=2', 'param_scheduler.0.pct_start=0.5')
QUICK_SIZES = ('--num-train', '40', '--num-val-base', '8', '--num-val-novel', '8', '--num-support-novel', '40')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--work-dir', default=os.environ.get('DEMO_DIR', 'work_dirs/demo'), help='default: $DEMO_DIR or work_dirs/demo'
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='train two epochs on a tiny data set in the work directory, to test the tools',
    )
    return parser.parse_args()


def phases(out: Path, data: Path, quick: bool) -> list[Phase]:
    """Return the phases of the demo, in order."""
    epochs = 2 if quick else 6
    options = ['--cfg-options', f'train_cfg.max_epochs={epochs}', *QUICK_SCHEDULE] if quick else []
    last = {arm: out / arm / f'epoch_{epochs}.pth' for arm in ('sft', 'grqo')}
    # Start GRQO from the first epoch of SFT, or continue an interrupted run from its own checkpoint.
    begun = (out / 'grqo/last_checkpoint').is_file()
    start = [] if begun else [str(out / 'sft/epoch_1.pth')]

    # Generate the data and train.
    made = [
        Phase(
            'data',
            'Generate the shapes world',
            ['tools/dataset_converters/make_shapes.py', '--out', str(data), *(QUICK_SIZES if quick else ())],
        ),
        Phase(
            'sft',
            'Train VIS-GDINO: supervised fine-tuning',
            ['tools/train.py', SFT, '--work-dir', str(out / 'sft'), '--resume', *options],
            last['sft'],
        ),
        Phase(
            'grqo',
            'Train DINO-R1: GRQO after that first epoch',
            ['tools/train.py', GRQO, '--work-dir', str(out / 'grqo'), '--resume', *start, *options],
            last['grqo'],
        ),
    ]
    # Test both detectors on both sets of categories.
    for arm, title in (('sft', 'VIS-GDINO'), ('grqo', 'DINO-R1')):
        for split, config in CONFIGS.items():
            folder = str(out / 'test' / f'{arm}_{split}')
            command = ['tools/test.py', config, str(last[arm]), '--work-dir', folder]
            made.append(Phase(f'test_{arm}_{split}', f'Test {title} on {split} categories', command))
    # Detect by example.
    prompts = [option for prompt in PROMPTS for option in ('--prompt', f'{data}/images/{prompt}')]
    model = ['--config', GRQO, '--checkpoint', str(last['grqo']), '--out-dir', str(out / 'image_demo')]
    detect = ['tools/image_demo.py', f'{data}/images/val_base', *model, *prompts]
    made.append(Phase('detect', 'Find objects by example', detect))
    return made


def main() -> None:
    args = parse_args()
    out = Path(args.work_dir).absolute()
    out = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    os.chdir(ROOT)
    # Let waiting threads spin only briefly, because the workers of the loader need the cores (0.21 instead of 0.24 s
    # per iteration).
    environment = with_variables(GOMP_SPINCOUNT='20000', PYTHONUNBUFFERED='1')
    if args.quick:
        environment['DINOR1_DATA'] = str(out / 'data')
    # Run the phases.
    print(f'The output of each phase: {out}/logs', flush=True)
    data = Path(environment.get('DINOR1_DATA') or 'data') / 'shapes'
    run_phases(phases(out, data, args.quick), out, environment)

    # Print the results.
    print(flush=True)
    tests = [str(out / 'test' / f'{arm}_{split}') for arm in ('sft', 'grqo') for split in CONFIGS]
    command = [sys.executable, 'tools/analysis_tools/collect_results.py', *tests]
    subprocess.run(command, env=environment, check=True)
    print(f'Prompts and detections after each epoch: {out}/sft/vis {out}/grqo/vis')
    print(f'Detections on test images: {out}/test/*/vis/test.png   Single prompts: {out}/image_demo')


if __name__ == '__main__':
    with one_line_errors():
        main()
