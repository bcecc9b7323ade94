#!/usr/bin/env python
"""Write an LVIS file as ODVG: one line per image, and a label map with the class names.

Images are named by their path below COCO's root, such as train2017/000000000009.jpg. ODVG has no field for what LVIS
says of absent and of incompletely annotated categories: use the result for training only.

Examples:
    python tools/dataset_converters/lvis2odvg.py data/coco/annotations/lvis_v1_train.json lvis_v1_train_od.jsonl
"""

from dinor1.cli.annotations import convert_to_odvg, run


def main() -> None:
    convert_to_odvg(__doc__, 'LVIS')


if __name__ == '__main__':
    run(main)
