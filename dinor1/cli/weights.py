"""Functions that the tools in ``tools/model_converters`` share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def convert_weights(description: str | None, convert: Callable[[str], dict[str, Any]]) -> None:
    """Main function of a tool that converts weights: read a file, rename its tensors, and write them.

    Args:
        description: Docstring of the tool.
        convert: Function that reads a file and returns the renamed weights.
    """
    # Parse the command line.
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('source', metavar='IN', help='file with the original weights')
    parser.add_argument('out', type=Path, metavar='OUT.pth', help='file to write')
    args = parser.parse_args()

    # Convert; these imports are slow, and --help does not need them.
    import torch

    from dinor1.utils.io import atomic_path

    state_dict = convert(args.source)
    with atomic_path(args.out) as temporary:
        torch.save(dict(state_dict=state_dict), temporary)
    print(f'{len(state_dict)} tensors written to {args.out}')
