#!/usr/bin/env python
"""Write a COCO file as ODVG: one line per image, and a label map with the class names.

Crowd, ignored and defective boxes are left out, because ODVG cannot mark them; they are counted.

Examples:
    python tools/dataset_converters/coco2odvg.py data/coco/annotations/instances_train2017.json train_od.jsonl
"""

from dinor1.cli.annotations import convert_to_odvg, run


def main() -> None:
    convert_to_odvg(__doc__, 'COCO')


if __name__ == '__main__':
    run(main)
