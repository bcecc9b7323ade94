"""Malformed files and arguments: an error of one line, no other exception, and no output.

The cases are drawn by a seeded generator from one valid input of each kind: a value is replaced, a key or an entry is
removed or repeated, bytes are cut off or changed. Some of these inputs are still valid; the others must be rejected.
"""

import copy
import json
import random
import shutil

import cv2
import numpy as np
import pytest
import torch

from dinor1.annotations import check_path
from dinor1.annotations.convert import to_odvg
from dinor1.blocks.category_graph import cooccurrence_counts, read_categories
from dinor1.datasets import CocoPromptDataset
from dinor1.engine.run_checks import check_training
from dinor1.evaluation.coco_metric import CocoPromptMetric
from dinor1.evaluation.lvis_metric import LVISFixedMetric
from dinor1.inference import DINOR1Inferencer, VisualPrompt
from dinor1.structures import PromptBank
from dinor1.utils.checkpoint import load_weights
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json
from tests.model_files import random_image

VALUES = [
    *(None, True, '', 'x', '1', '\ud800', 'a\0b', -1, 0, 1.5, 10**20, 10**400, float('nan'), float('inf')),
    *([], {}, [1, 2, 3], ['a'] * 4, {'a': 1}, [[]], [float('nan')] * 4, [0, 0, 1e308, 1e308]),
]
# Refused cases of each kind; the last test prints and checks them.
REFUSED: dict[str, int] = {}


def refuses(kind, function) -> bool:
    """Whether ``function`` raises an error of one line; any other exception fails the test."""
    message = None
    try:
        function()
    except InputError as error:
        message = str(error)
    if message is None:
        return False
    assert message.strip(), 'an error without a message'
    assert len(message.splitlines()) == 1, message
    REFUSED[kind] = REFUSED.get(kind, 0) + 1
    return True


def coco_content() -> dict:
    """A valid file with everything that COCO and LVIS may have."""
    images = [
        dict(id=i, file_name=f'{i}.png', width=80, height=60, neg_category_ids=[2], not_exhaustive_category_ids=[1])
        for i in range(3)
    ]
    box = dict(iscrowd=0, area=200, segmentation=[[1, 1, 21, 1, 21, 11]], bbox=[1, 1, 20, 10])
    annotations = [dict(box, id=1 + 2 * i + c, image_id=i, category_id=c) for i in range(3) for c in (0, 1)]
    names = enumerate(['apple', 'pear', 'plum'])
    categories = [dict(id=c, name=name, frequency='f', synset='a.n.01', supercategory='fruit') for c, name in names]
    return dict(images=images, annotations=annotations, categories=categories)


def damage(content, generator) -> None:
    """Change one random part of nested dicts and lists, in place."""
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = generator.choice(list(keys))
        inner = node[key]
        # Go on with a probability that reaches single values often.
        if isinstance(inner, dict | list) and inner and generator.random() < 0.9:
            node = inner
            continue
        action = generator.random()
        if action < 0.6:
            node[key] = copy.deepcopy(generator.choice(VALUES))
        elif action < 0.85 or isinstance(node, dict):
            del node[key]
        else:
            node.append(copy.deepcopy(inner))
        return


def damage_bytes(data: bytes, generator) -> bytes:
    """Cut off the end, or change some bytes."""
    if generator.random() < 0.5:
        return data[: generator.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(generator.randint(1, 20)):
        changed[generator.randrange(min(len(data), 400))] = generator.randrange(256)
    return bytes(changed)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Folder with the images of :func:`coco_content`."""
    folder = tmp_path_factory.mktemp('images')
    for i in range(3):
        cv2.imwrite(str(folder / f'{i}.png'), random_image(60, 80, seed=i))
    return folder


@pytest.fixture(scope='module')
def inferencer(model_files):
    return DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')


def entries(path, out) -> dict:
    """Everything that reads an annotation file: name -> function."""

    def validate():
        results, _ = check_path(path, check_images=False)
        if results[0].errors:
            raise InputError(results[0].errors[0].detail)

    def graph():
        data = read_json(path)
        cooccurrence_counts(data, read_categories(data, str(path)).ids, str(path))

    def dataset(**settings):
        # With a file client, the images are not looked up.
        client = dict(backend_args=dict(backend='local'), data_prefix=dict(img='images'), pipeline=[])
        loaded = CocoPromptDataset(str(path), **client, **settings)
        for index in range(len(loaded)):
            loaded.get_data_info(index)

    return {
        'validate': validate,
        'training': dataset,
        'training, skip': lambda: dataset(bad_annotations='skip'),
        'evaluation': lambda: dataset(test_mode=True),
        'COCO metric': lambda: CocoPromptMetric(str(path)),
        'LVIS metric': lambda: LVISFixedMetric(str(path)),
        'convert': lambda: to_odvg(path, out, 'LVIS'),
        'category graph': graph,
    }


@pytest.mark.parametrize('seed', range(4))
def test_malformed_annotations_are_rejected(tmp_path, seed):
    """Readers accept a file or reject it with one line; `validate` rejects what training or evaluation rejects."""
    generator = random.Random(seed)
    path, out = tmp_path / 'a.json', tmp_path / 'out' / 'a.jsonl'
    for _ in range(15):
        content = coco_content()
        for _ in range(generator.randint(1, 2)):
            damage(content, generator)
        data = json.dumps(content).encode()
        path.write_bytes(damage_bytes(data, generator) if generator.random() < 0.15 else data)
        refused = {name: refuses('annotations', function) for name, function in entries(path, out).items()}
        assert refused['validate'] or not (refused['training'] or refused['evaluation']), path.read_text()
        if refused['convert']:
            assert not out.parent.exists() or not list(out.parent.iterdir())
        shutil.rmtree(out.parent, ignore_errors=True)


def test_malformed_images_are_rejected(inferencer, images, tmp_path):
    generator = random.Random(0)
    inferencer.set_prompts(visual=[VisualPrompt(str(images / '0.png'), [[5, 5, 40, 40]], ['cat'])])
    before = inferencer.prompts
    for number in range(40):
        suffix = generator.choice(['.png', '.jpg', '.bmp', '.webp'])
        _, data = cv2.imencode(suffix, random_image(60, 80, seed=number))
        path = tmp_path / f'{number}{suffix}'
        # Damage in the header; a later one may leave an image that can be read.
        path.write_bytes(data.tobytes()[: generator.randrange(30)])
        assert refuses('images', lambda path=path: inferencer.predict(str(path)))
        prompt = [VisualPrompt(str(path), [[5, 5, 40, 40]], ['cat'])]
        assert refuses('images', lambda prompt=prompt: inferencer.set_prompts(visual=prompt))
    assert inferencer.prompts is before


def test_malformed_configs_are_rejected(repo, tmp_path, monkeypatch):
    from mmengine.config import Config

    generator = random.Random(0)
    whole = Config.fromfile(repo / 'configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py').to_dict()
    path = tmp_path / 'config.py'
    for _ in range(40):
        content = copy.deepcopy(whole)
        for _ in range(3):
            damage(content, generator)
        text = '\n'.join(f'{key} = {value!r}' for key, value in content.items() if key.isidentifier())
        text = text.replace('nan', "float('nan')").replace('inf,', "float('inf'),")
        path.write_text(text.encode(errors='replace').decode())
        refuses('configs', lambda: check_training(load_config(path), str(path)))


def test_malformed_checkpoints_are_rejected(build_tiny, model_files, tmp_path):
    generator = random.Random(0)
    model = build_tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / 'model.pth'
    whole = torch.load(model_files.checkpoint, weights_only=False)
    with open(model_files.checkpoint, 'rb') as file:
        data = file.read()
    name = next(iter(whole['state_dict']))
    wrong = [
        *([], 'text', 3, None, {}, dict(state_dict=None), dict(state_dict=[1]), dict(state_dict={name: 'x'})),
        *(whole | dict(state_dict={name: torch.zeros(1)}), whole | dict(state_dict={1: torch.zeros(1)})),
        whole | dict(state_dict={k: v for k, v in whole['state_dict'].items() if k != name}),
        whole | dict(state_dict={k: v * float('nan') for k, v in whole['state_dict'].items()}),
        whole | dict(state_dict={k: v.long() for k, v in whole['state_dict'].items()}),
        whole | dict(state_dict=whole['state_dict'] | {'surplus': torch.zeros(1)}),
    ]
    for content in wrong:
        torch.save(content, path)
        assert refuses('checkpoints', lambda: load_weights(model, str(path)))
    for _ in range(10):
        path.write_bytes(data[: generator.randrange(len(data))])
        assert refuses('checkpoints', lambda: load_weights(model, str(path)))
    for _ in range(5):
        path.write_bytes(bytes(generator.randrange(256) for _ in range(200)))
        assert refuses('checkpoints', lambda: load_weights(model, str(path)))
    # The model is as it was.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_malformed_prompt_banks_are_rejected(inferencer, images, tmp_path):
    generator = random.Random(0)
    path = tmp_path / 'bank.safetensors'
    inferencer.set_prompts(visual=[VisualPrompt(str(images / '0.png'), [[5, 5, 40, 40]], ['cat'])])
    inferencer.save_bank(path)
    before, data = inferencer.prompts, path.read_bytes()
    for _ in range(25):
        path.write_bytes(data[: generator.randrange(len(data))])
        assert refuses('banks', lambda: PromptBank.load(path))
        assert refuses('banks', lambda: inferencer.set_prompts(bank=str(path)))
    for _ in range(25):
        changed = bytearray(data)
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(changed))
        if refuses('banks', lambda: inferencer.set_prompts(bank=str(path))):
            assert inferencer.prompts is before
        before = inferencer.prompts


BAD_BOXES = [
    *([], [[]], [1, 2, 3], [[1, 2, 3]], [[5, 5, 5, 40]], [[40, 5, 5, 40]], [[5, 5, 400, 40]], [[-9, 5, 30, 40]]),
    *([[float('nan'), 5, 30, 40]], [[float('inf')] * 4], [['a', 'b', 'c', 'd']], 'x', [None], [[None] * 4], {}),
    *(np.zeros((2, 5)), np.zeros(0), [[1e30, 1e30, 2e30, 2e30]], [[[1, 2, 3, 4]]]),
]


def test_malformed_prompts_are_rejected(inferencer, images):
    image = str(images / '0.png')
    inferencer.set_prompts(visual=[VisualPrompt(image, [[5, 5, 40, 40]], ['cat'])])
    before = inferencer.prompts
    for boxes in BAD_BOXES:
        assert refuses('prompts', lambda b=boxes: inferencer.set_prompts(visual=[VisualPrompt(image, b, ['cat'])]))
    for names in ([], ['a', 'b'], [''], ['  '], [1], [None], 7, {}):
        prompt = lambda n=names: inferencer.set_prompts(visual=[VisualPrompt(image, [[5, 5, 40, 40]], n)])  # noqa: E731
        assert refuses('prompts', prompt), names
    for target in ('', 'absent.png', str(images)):
        prompt = lambda p=target: inferencer.set_prompts(visual=[VisualPrompt(p, [[0, 0, 3, 3]], ['a'])])  # noqa: E731
        assert refuses('prompts', prompt), target
    assert inferencer.prompts is before


def test_number_of_rejected_inputs():
    """Runs last, and only together with the tests above."""
    if set(REFUSED) != {'annotations', 'images', 'configs', 'checkpoints', 'banks', 'prompts'}:
        pytest.skip('needs the results of the other tests of this file')
    print(f'{sum(REFUSED.values())} malformed inputs were rejected: {REFUSED}')
    assert sum(REFUSED.values()) >= 200
    assert min(REFUSED.values()) >= 5
