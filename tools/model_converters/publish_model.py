r"""Make a weights file for publication: half precision, without optimizer, logs and language model.

Example:
    python tools/model_converters/publish_model.py work_dirs/lite/epoch_20.pth dinor1/weights/lite.safetensors \
        --config vis_gdino/vis-gdino_lite_2xb8_20e_photographs

With --threshold, scores are shifted so that detections with this score get 0.3, the threshold that `dinor1 detect`
shows by default: a number is added to the last classification bias, which changes no ranking.

With an EMAHook, the weights of a checkpoint are the moving average. The file is loaded wherever a checkpoint is
expected; those in dinor1/weights also under the address dinor1://NAME.
"""

import argparse
import math
from pathlib import Path

from dinor1.cli.exit_status import run_command

# Default of --score-thr of `dinor1 detect`.
SHOWN = 0.3


def main() -> None:
    """Run the tool."""
    # Parse the command line.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('source', metavar='IN.pth', help='checkpoint of a training')
    parser.add_argument('out', type=Path, metavar='OUT.safetensors', help='file to write')
    parser.add_argument('--config', required=True, help='name of the config of dinor1 that it was trained with')
    parser.add_argument('--threshold', type=float, metavar='SCORE', help='score that becomes 0.3 (default: no shift)')
    args = parser.parse_args()

    # Check the weights against the model, and write them; these imports are slow, and --help does not need them.
    from dinor1.utils.checkpoint import load_model
    from dinor1.utils.config import load_config
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import sha256
    from dinor1.utils.registration import register_all
    from dinor1.utils.released_weights import write_weights_file

    if args.out.suffix != '.safetensors':
        raise InputError(f'{args.out}: the name must end in .safetensors')
    if args.threshold is not None and not 0 < args.threshold < 1:
        raise InputError(f'--threshold must be in (0, 1), as scores are, got {args.threshold:g}')
    register_all()
    model = load_model(load_config(args.config), args.source)
    state_dict, shift = model.state_dict(), 0.0
    # Shift the logits so that the given score becomes SHOWN.
    if args.threshold is not None:
        shift = math.log(SHOWN / (1 - SHOWN)) - math.log(args.threshold / (1 - args.threshold))
        name = f'bbox_head.cls_branches.{model.decoder.num_layers - 1}.bias'
        state_dict[name] = state_dict[name] + shift
    write_weights_file(args.out, state_dict, args.config, source_sha256=sha256(args.source), score_shift=f'{shift:.4f}')
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, SHA-256 {sha256(args.out)}')


if __name__ == '__main__':
    run_command(main)
