"""dinor1 adapt: from an annotation file to a tuned prompt bank."""

import json

import cv2
import pytest

from dinor1.cli.main import main
from dinor1.inference import read_annotated
from dinor1.structures import PromptBank
from dinor1.utils.errors import InputError
from tests.model_files import random_image


@pytest.fixture
def annotations(tmp_path):
    """A COCO file of three copies of an image of 80 x 60 pixels with a cat and a dog, and an image without boxes."""
    for i in range(4):
        cv2.imwrite(str(tmp_path / f'{i}.png'), random_image(60, 80, seed=i == 3))
    boxes = [(1, [5, 5, 25, 35]), (2, [40, 10, 30, 40])]
    annotations = [
        dict(id=10 * image + c, image_id=image, category_id=c, bbox=box, area=box[2] * box[3], iscrowd=0)
        for image in range(3)
        for c, box in boxes
    ]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=80, height=60) for i in range(4)],
        annotations=annotations,
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
    )
    path = tmp_path / 'corrected.json'
    path.write_text(json.dumps(content))
    return path


def test_read_annotated_returns_corners_and_names(annotations):
    found = read_annotated(annotations)
    assert found.images == [str(annotations.parent / f'{i}.png') for i in range(3)]
    assert found.boxes == [[[5, 5, 30, 40], [40, 10, 70, 50]]] * 3
    assert found.names == [['cat', 'dog']] * 3
    assert found.num_without_boxes == 1


def test_read_annotated_rejects_defective_files(annotations):
    content = json.loads(annotations.read_text())
    content['annotations'][0]['bbox'] = [5, 5, 0, 35]
    annotations.write_text(json.dumps(content))
    with pytest.raises(InputError, match='`dinor1 validate .*corrected.json` lists all errors'):
        read_annotated(annotations)
    annotations.write_text(json.dumps(content | dict(annotations=[])))
    with pytest.raises(InputError, match=r'corrected.json: '):
        read_annotated(annotations)


def test_adapt_writes_a_bank_with_its_origin(annotations, model_files, tmp_path, capsys):
    out = tmp_path / 'adapted.safetensors'
    files = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    arguments = ['adapt', str(annotations), *files, '--out', str(out), '--steps', '2']
    main(arguments)
    left_out, verdict, where = capsys.readouterr().out.splitlines()[-3:]
    assert left_out == 'Left out: 1 images without boxes'
    assert verdict.startswith('Adaptation kept: loss ')
    assert where == f'Prompt bank: {out}'
    bank = PromptBank.load(out)
    assert (bank.names, bank.num_exemplars) == (('cat', 'dog'), (3, 3))
    assert bank.adaptations[0]['images'] == [str(tmp_path / f'{i}.png') for i in range(3)]
    # Start from this bank. Without an improvement, no file is written.
    second = tmp_path / 'second.safetensors'
    with pytest.raises(SystemExit) as stop:
        main([*arguments[:-4], '--bank', str(out), '--lr', '0', '--out', str(second), '--steps', '1'])
    assert stop.value.code == 1
    assert 'rejected' in capsys.readouterr().out
    assert not second.exists()


def test_adapt_of_the_head_writes_a_second_file_that_detect_needs(annotations, model_files, tmp_path, capsys):
    out, head = tmp_path / 'adapted.safetensors', tmp_path / 'adapted_head.safetensors'
    files = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    main(['adapt', str(annotations), *files, '--out', str(out), '--steps', '1', '--parts', 'head'])
    assert capsys.readouterr().out.splitlines()[-2:] == [f'Tuned head: {head}', f'Prompt bank: {out}']
    target = [str(tmp_path / '0.png'), *files, '--bank', str(out), '--out-dir', str(tmp_path / 'out')]
    with pytest.raises(SystemExit) as stop:
        main(['detect', *target])
    assert stop.value.code == 2
    assert 'was tuned together with a head; load this head first: --head' in capsys.readouterr().err
    main(['detect', *target, '--head', str(head)])
    assert (tmp_path / 'out/preds/0.json').is_file()


def test_adapt_rejects_a_bank_of_another_suffix(annotations, model_files, tmp_path, capsys):
    files = ['--config', model_files.config, '--checkpoint', model_files.checkpoint]
    with pytest.raises(SystemExit) as stop:
        main(['adapt', str(annotations), *files, '--out', str(tmp_path / 'bank.json')])
    assert stop.value.code == 2
    assert 'ends in .safetensors' in capsys.readouterr().err
