#!/usr/bin/env python
"""Embed class names once, for training with model.prompts.class_embeddings=OUT instead of a language model.

Examples:
    python tools/model_converters/class_embeddings.py train.json val.json --out names.safetensors
    python tools/model_converters/class_embeddings.py names.txt --language-model WordHashModel --out names.safetensors
"""

import argparse

from dinor1.cli.exit_status import run_command


def main() -> None:
    # Parse the command line.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        'names', nargs='+', metavar='FILE', help='annotation file in COCO format, or text with a class name per line'
    )
    parser.add_argument('--out', required=True, metavar='OUT.safetensors', help='file to write')
    parser.add_argument('--language-model', choices=('MiniLM', 'WordHashModel'), default='MiniLM')
    args = parser.parse_args()

    # Embed the names; these imports are slow, and --help does not need them.
    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.models.prompts import write_class_embeddings

    count = write_class_embeddings(args.names, args.language_model, args.out)
    print(f'{count} class names written to {args.out}')


if __name__ == '__main__':
    run_command(main)
