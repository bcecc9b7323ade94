"""Commands of the documentation that are marked by ``<!-- run -->``: they are executed, page by page.

The folder in which they run has what the pages assume: a set of photographs, the shapes world, a trained detector, a
photograph, and the annotations of COCO. They are small replacements with the same names, and
``CONFIG`` and ``CKPT`` name a tiny detector.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.model_files import random_image

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r'^<!-- run -->\n```bash\n(.*?)^```', re.DOTALL | re.MULTILINE)
PAGES = [page for page in sorted(ROOT.glob('docs/**/*.md')) if MARKED.search(page.read_text())]


def write_set(root: Path, splits: dict[str, list[str]], images: str = '') -> None:
    """A COCO file per split, of images with two boxes each; ``images`` is the folder of a split's images."""
    categories = [dict(id=1, name='solid triangle'), dict(id=2, name='striped circle')]
    (root / 'annotations').mkdir(parents=True)
    for number, (split, names) in enumerate(splits.items()):
        folder = root / 'images' / images.format(split=split)
        folder.mkdir(parents=True, exist_ok=True)
        infos, boxes = [], []
        for i, name in enumerate(names):
            cv2.imwrite(str(folder / name), random_image(144, 160, seed=10 * number + i))
            infos.append(dict(id=i, file_name=name, width=160, height=144))
            for c, box in enumerate(([7, 69, 58, 61], [73, 36, 58, 56])):
                size = dict(bbox=box, area=box[2] * box[3], iscrowd=0)
                boxes.append(dict(id=len(boxes), image_id=i, category_id=c + 1, **size))
        content = dict(images=infos, annotations=boxes, categories=categories)
        (root / f'annotations/{split}.json').write_text(json.dumps(content))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, model_files):
    """Folder with the data sets that the pages name, and a detector at CONFIG and CKPT."""
    root = tmp_path_factory.mktemp('documentation')
    write_set(root / 'data/raccoon', {split: [f'{split}.jpg'] for split in ('train', 'val', 'test')})
    splits = {'support_novel': ['000001.png'], 'val_novel': ['000002.png']}
    write_set(root / 'data/shapes', splits, images='{split}')
    support = root / 'data/shapes'
    prompts = dict(
        type='CocoPromptDataset',
        data_root=str(support),
        ann_file='annotations/support_novel.json',
        data_prefix=dict(img='images/support_novel'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='PackDetInputs'),
        ],
    )
    cv2.imwrite(str(root / 'photo.jpg'), random_image(200, 260, seed=100))
    shutil.copy(root / 'data/raccoon/annotations/train.json', root / 'instances_train2017.json')
    (root / 'tiny.py').write_text(f"_base_ = '{model_files.config}'\nprompt_dataset = {prompts!r}\n")
    return root


def test_marked_blocks_are_found():
    text = 'a\n<!-- run -->\n```bash\ndinor1 x\n```\n```bash\ndinor1 y\n```\n'
    assert MARKED.findall(text) == ['dinor1 x\n']
    assert len(PAGES) >= 2


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_marked_commands_run(page, folder, model_files):
    # The detector of the page is that of the test.
    script = ''.join(MARKED.findall(page.read_text()))
    script = re.sub(r'^CONFIG=\S+.*$', f'CONFIG={folder / "tiny.py"}', script, flags=re.MULTILINE)
    script = re.sub(r'^CKPT=\S+.*$', f'CKPT={model_files.checkpoint}', script, flags=re.MULTILINE)
    # Run all blocks as one script, with the command of this checkout.
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, paths)), DINOR1_DATA=str(folder / 'data'))
    functions = f'python() {{ "{sys.executable}" "$@"; }}\ndinor1() {{ python -m dinor1 "$@"; }}'
    command = f'{functions}\nset -eu\n{script}'
    result = subprocess.run(
        ['bash', '-c', command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f'{result.stderr[-2000:]}\n{script}'
