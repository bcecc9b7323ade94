"""label_files: output files, resumed runs, errors, and the targets of the command line."""

import json
import shutil

import pytest

from dinor1.inference import label_files, list_targets
from dinor1.utils.errors import InputError
from tests.model_files import random_image


@pytest.fixture
def searched(detector, monkeypatch):
    """List of the images that the detector searches."""
    images, predict = [], detector.predict

    def recorded(sources, *args, **kwargs):
        images.extend(sources)
        return predict(sources, *args, **kwargs)

    monkeypatch.setattr(detector, 'predict', recorded)
    return images


def test_label_files_of_all_images_equal_predict(detector, image_folder, tmp_path, capsys):
    targets = list_targets([str(image_folder)])
    detector.set_prompts(visual=[(random_image(60, 80), [5, 5, 30, 40], 'cat')], bank=None)
    labelled = label_files(detector, targets, tmp_path, 'coco', 0.01, batch_size=3, nms_thr=0.5)
    assert 'ETA' in capsys.readouterr().err
    content = json.loads((tmp_path / 'annotations.json').read_text())
    expected = detector.predict(targets, score_thr=0.01, batch_size=3, nms_thr=0.5, as_dict=True)
    assert len(content['images']) == 4
    for image, result in zip(content['images'], expected, strict=True):
        found = [a for a in content['annotations'] if a['image_id'] == image['id']]
        assert [a['score'] for a in found] == result['scores']
        assert result['scores']
    assert labelled.counts.counts['cat'] == len(content['annotations'])
    assert (labelled.num_resumed, labelled.unreadable) == (0, [])


def test_label_files_leaves_negative_classes_out(detector, image_folder, tmp_path):
    boxes = [[5, 5, 30, 40], [40, 10, 70, 50]]
    detector.set_prompts(visual=[(random_image(60, 80), boxes, ['cat', 'dog'])], negative='cat')
    label_files(detector, [str(image_folder / '0.png')], tmp_path, 'yolo', 0)
    assert json.loads((tmp_path / 'data.yaml').read_text())['names'] == ['dog']
    labels = {line.split()[0] for line in (tmp_path / 'labels/0.txt').read_text().splitlines()}
    assert labels == {'0'}


def test_label_files_resumes_where_it_stopped(detector, searched, image_folder, tmp_path):
    targets = list_targets([str(image_folder)])
    label_files(detector, targets[:2], tmp_path, 'coco', 0.01, 1)
    (tmp_path / 'preds/1.json').write_text('{"names": ')  # damaged
    searched.clear()
    labelled = label_files(detector, targets, tmp_path, 'coco', 0.01, 1, resume=True)
    assert searched == targets[1:]
    assert labelled.num_resumed == 1
    resumed = json.loads((tmp_path / 'annotations.json').read_text())
    # With a batch size of 1, the result equals that of a run without interruption; another format needs no detection.
    label_files(detector, targets, tmp_path / 'at_once', 'coco', 0.01, 1)
    at_once = json.loads((tmp_path / 'at_once/annotations.json').read_text())
    assert resumed['annotations'] == at_once['annotations']
    searched.clear()
    label_files(detector, targets, tmp_path, 'labelme', 0.01, resume=True)
    assert searched == []


def test_label_files_rejects_resuming_with_other_settings(detector, searched, image_folder, tmp_path):
    targets = [str(image_folder / '0.png')]
    label_files(detector, targets, tmp_path, 'coco', 0.3, nms_thr=0.7)
    before = (tmp_path / 'settings.json').read_text()
    with pytest.raises(InputError, match=r'other settings \(nms_thr, score_thr\); choose another --out-dir'):
        label_files(detector, targets, tmp_path, 'coco', 0.2, resume=True, nms_thr=0.6)
    # The same name with other boxes is another prompt.
    detector.set_prompts(visual=[(random_image(60, 80), [[5, 5, 31, 40], [40, 10, 70, 50]], ['cat', 'dog'])])
    with pytest.raises(InputError, match=r'other settings \(embeddings\)'):
        label_files(detector, targets, tmp_path, 'coco', 0.3, resume=True, nms_thr=0.7)
    assert (tmp_path / 'settings.json').read_text() == before
    # Without resume, all results are replaced, and no old result remains.
    searched.clear()
    label_files(detector, targets, tmp_path, 'coco', 0.2, nms_thr=0.6)
    assert searched == targets


def test_label_files_searches_another_image_of_the_same_name_again(detector, searched, image_folder, tmp_path):
    other = tmp_path / 'other/0.png'
    other.parent.mkdir()
    shutil.copy(image_folder / '1.png', other)
    label_files(detector, [str(image_folder / '0.png')], tmp_path / 'out', 'coco')
    searched.clear()
    label_files(detector, [str(other)], tmp_path / 'out', 'coco', resume=True)
    assert searched == [str(other)]


def test_label_files_names_unreadable_images_and_labels_the_others(detector, image_folder, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes((image_folder / '1.png').read_bytes()[:99])
    targets = [str(image_folder / '0.png'), str(broken), str(image_folder / '2.png')]
    labelled = label_files(detector, targets, tmp_path / 'out', 'coco', 0.01)
    assert labelled.unreadable == [str(broken)]
    images = json.loads((tmp_path / 'out/annotations.json').read_text())['images']
    assert [image['file_name'].rsplit('/', 1)[-1] for image in images] == ['0.png', '2.png']


def test_label_files_rejects_missing_prompts_and_unknown_formats(detector, tmp_path):
    with pytest.raises(InputError, match="unknown format 'voc'"):
        label_files(detector, [], tmp_path, 'voc')
    detector.reset_prompts()
    with pytest.raises(InputError, match='no prompts are set'):
        label_files(detector, [], tmp_path, 'coco')
    assert not (tmp_path / 'settings.json').exists()


def test_list_targets_takes_files_folders_and_patterns(image_folder, tmp_path):
    for name in ('a/x.jpg', 'a/b/y.jpg', 'a/b/notes.txt', 'odd[1].png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image_folder / '0.png', tmp_path / name)
    found = list_targets([f'{tmp_path}/a/**/*', str(tmp_path / 'a'), f'{tmp_path}/odd[1].png', str(image_folder)])
    expected = [f'{tmp_path}/a/b/y.jpg', f'{tmp_path}/a/x.jpg', f'{tmp_path}/odd[1].png']
    assert found == expected + [str(image_folder / f'{i}.png') for i in range(4)]


@pytest.mark.parametrize(
    ('target', 'message'), [('absent.jpg', 'no such image'), ('*.gif', r'\*.gif: no image or vid')]
)
def test_list_targets_rejects_missing_targets(target, message, tmp_path):
    with pytest.raises(InputError, match=message):
        list_targets([str(tmp_path / target)])
