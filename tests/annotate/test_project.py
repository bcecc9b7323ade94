"""The state of a labelled folder: revisions, saving, damaged files, full disks, and images that may not be read."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinor1.annotate import image_access, store
from dinor1.annotate.image_access import ImageFiles
from dinor1.annotate.project import Project, StaleRevisionError, iou
from dinor1.annotate.records import Box, UnknownIdError
from dinor1.utils.errors import InputError
from tests.annotate.conftest import box, write_images
from tests.model_files import random_image


def test_project_is_equal_after_it_is_opened_again(folder, open_project):
    project = open_project(folder)
    first, second, _ = project.files
    coin = project.add_class(' Coin ')
    project.change_class(coin.id, dict(name='euro', color='#00FF00'))
    saved = project.update_image(first, 0, [box(1, 2, 30, 40, coin.id)], True)
    exemplar = project.add_exemplar(second, [5, 5, 20, 20], coin.id, True)
    project.change_settings(dict(threshold=0.4))
    project.attach('run', dict(total=2))
    project.close()
    again = open_project(folder)
    assert again.record(first) == saved
    assert (saved.state, saved.revision, saved.boxes[0].bbox) == ('checked', 1, (1, 2, 30, 40))
    assert [(c.name, c.color) for c in again.classes] == [('euro', '#00ff00')]
    assert again.exemplars == [exemplar]
    assert (again.settings.threshold, again.settings.class_agnostic) == (0.4, True)
    assert again.attachments == dict(run=dict(total=2))
    assert again.record(second).state == 'new'


def test_update_image_with_old_revision_changes_nothing(project):
    image = next(iter(project.files))
    project.update_image(image, 0, [box(1, 1, 20, 20)], False)
    with pytest.raises(StaleRevisionError) as caught:
        project.update_image(image, 0, [], False)
    assert caught.value.record == project.record(image)
    assert len(project.record(image).boxes) == 1
    assert project.record(image).revision == 1


@pytest.mark.parametrize(
    ('boxes', 'message'),
    [
        ('none', 'boxes must be a list'),
        ([box(1, 1, 20, 20), box(1, 1, 20, 20)], 'two boxes have the same id'),
        ([box(1, 1, 20, 20, class_id=7)], 'no class has the id 7'),
        ([box(5, 5, 5.5, 20)], 'thinner than 1 pixel'),
        ([box(90, 5, 99, 20)], 'thinner than 1 pixel'),
        ([box(float('nan'), 5, 99, 20)], 'four finite numbers'),
        ([box(10**400, 5, 99, 20)], 'four finite numbers'),
        ([box(True, 5, 99, 20)], 'four finite numbers'),
        ([box(1, 1, 20, 20, status='maybe')], 'status must be one of'),
        ([box(1, 1, 20, 20, score=1.5)], 'score must be a number in [0, 1]'),
        ([box(1, 1, 20, 20, id='../../x')], 'an id is 1 to 40 letters and digits'),
        ([dict(id='a')], "has no 'bbox'"),
        ([3], 'expected an object'),
    ],
)
def test_update_image_rejects_invalid_boxes(project, boxes, message):
    image = next(iter(project.files))
    with pytest.raises(InputError) as caught:
        project.update_image(image, 0, boxes, False)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)
    assert project.record(image).revision == 0


def test_update_image_clips_to_the_image(project):
    image = next(iter(project.files))
    record = project.update_image(image, 0, [box(-5, -5, 200, 200)], False)
    assert record.boxes[0].bbox == (0, 0, 80, 60)


def test_set_proposals_replaces_proposals_and_keeps_decisions(project):
    image = next(iter(project.files))
    project.add_class('key')
    decided = [box(0, 0, 20, 20), box(40, 0, 60, 20, id='b', status='rejected'), box(0, 40, 9, 49, 1, 'c', score=0.5)]
    decided[2]['status'] = 'proposed'
    project.update_image(image, 0, decided, False)
    found = [
        Box('1', (0, 0, 20, 19), 2, 'proposed', 0.9),  # an annotation, regardless of its class
        Box('2', (40, 0, 60, 19), 1, 'proposed', 0.8),  # rejected
        Box('3', (40, 0, 60, 19), 2, 'proposed', 0.7),  # rejected as another class
        Box('4', (0, 30, 20, 50), 1, 'proposed', 0.6),
    ]
    assert project.set_proposals(image, found, 'key') == 2
    record = project.record(image)
    assert [b.id for b in record.boxes] == ['a', 'b', '3', '4']
    assert (record.searched, record.revision, record.state) == ('key', 2, 'proposed')


def test_iou_of_two_boxes():
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_classes_have_distinct_names_and_stay_while_they_are_used(project):
    image = next(iter(project.files))
    with pytest.raises(InputError, match="a class named 'coin' already exists"):
        project.add_class(' COIN')
    with pytest.raises(InputError, match='one line of at most 100 characters'):
        project.add_class('a\u2063b')
    with pytest.raises(InputError, match='a colour is written #rrggbb'):
        project.add_class('key', 'red')
    project.update_image(image, 0, [box(1, 1, 20, 20)], False)
    with pytest.raises(InputError, match='has 1 boxes'):
        project.remove_class(1)
    project.update_image(image, 1, [box(1, 1, 20, 20, status='proposed')], False)
    project.remove_class(1)
    assert project.classes == []
    assert project.record(image).boxes == ()


def test_changed_images_since_a_sequence_number(project):
    first, second, third = project.files
    start = project.sequence
    assert project.changed_images(0) == [first, second, third]
    assert project.changed_images(start) == []
    project.update_image(second, 0, [], True)
    assert project.changed_images(start) == [second]
    assert not project.common_changed(start)
    project.change_settings(dict(nms_thr=0.5))
    assert project.common_changed(start)


def test_exemplars_are_distinct_and_removable(project):
    image = next(iter(project.files))
    exemplar = project.add_exemplar(image, [1, 1, 20, 20], 1)
    with pytest.raises(InputError, match='is already an exemplar of'):
        project.add_exemplar(image, [1, 1, 20, 20], 1)
    assert project.change_exemplar(exemplar.id, True).negative
    project.remove_exemplar(exemplar.id)
    assert project.exemplars == []
    with pytest.raises(UnknownIdError):
        project.remove_exemplar(exemplar.id)
    with pytest.raises(UnknownIdError):
        project.add_exemplar('unknown', [1, 1, 20, 20], 1)


# ---------------------------------------------------------------- the disk


def test_work_dir_belongs_to_one_process(folder, project):
    with pytest.raises(InputError, match='another process works in this folder'):
        Project(folder)


def test_project_keeps_changes_in_memory_while_the_disk_is_full(folder, project, open_project, monkeypatch):
    """Writes fail, then the disk has space again: every change exists in memory and on the disk."""
    first, second, _ = project.files

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store, 'write_json', full)
        project.update_image(first, 0, [box(1, 1, 20, 20)], False)
        project.update_image(second, 0, [box(2, 2, 20, 20)], False)
        assert 'No space left on device' in project.problem
        assert len(project.record(first).boxes) == 1
        assert not project.retry()
    assert project.retry()
    assert project.problem == ''
    project.close()
    again = open_project(folder)
    assert [len(again.record(image).boxes) for image in again.files] == [1, 1, 0]


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_failed_write_leaves_the_old_file(folder, project, monkeypatch):
    """An error of the operating system: the temporary file cannot be written."""
    image = next(iter(project.files))
    project.update_image(image, 0, [box(1, 1, 20, 20)], False)
    path = folder / '.dinor1' / 'images' / f'{image}.json'
    before = path.read_text()
    original = Path.write_text

    def to_full_device(self, text, *args, **kwargs):
        return original(Path('/dev/full'), text, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_text', to_full_device)
        project.update_image(image, 1, [], False)
        assert 'No space left' in project.problem
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_confirmed_changes_exist_after_the_process_is_killed(folder, open_project):
    """A process saves boxes continuously and is killed: all confirmed boxes exist, and no file is incomplete."""
    code = """if True:
        import sys
        from pathlib import Path
        from dinor1.annotate.project import Project
        project = Project(Path(sys.argv[1]))
        project.add_class('coin')
        image = next(iter(project.files))
        boxes = []
        for i in range(100_000):
            boxes = [*boxes[-50:], dict(id=f'b{i}', bbox=[1, 1, 20, 20], class_id=1)]
            record = project.update_image(image, i, boxes, False)
            print(record.revision, flush=True)
    """
    process = subprocess.Popen([sys.executable, '-c', code, str(folder)], stdout=subprocess.PIPE, text=True)
    confirmed = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    confirmed += [int(line) for line in process.stdout if line.endswith('\n')]
    process.wait()
    project = open_project(folder)
    record = project.record(next(iter(project.files)))
    assert record.revision - confirmed[-1] in (0, 1)
    assert record.boxes[-1].id == f'b{record.revision - 1}'


def test_damaged_record_is_an_error_of_one_line(folder, open_project):
    project = open_project(folder)
    image = next(iter(project.files))
    project.update_image(image, 0, [], True)
    project.close()
    path = folder / '.dinor1' / 'images' / f'{image}.json'
    path.write_text('{"revision": 1')
    with pytest.raises(InputError, match='not valid JSON at line 1'):
        open_project(folder)
    path.write_text(json.dumps(dict(revision=-1, checked=False, boxes=[], searched='', width=0, height=0)))
    with pytest.raises(InputError, match='not a record of an image'):
        open_project(folder)
    path.unlink()
    for content, message in (
        ('{"version": 9}', 'not a project of this version'),
        ('{"classes": 3}', 'classes is damaged'),
    ):
        (folder / '.dinor1' / 'project.json').write_text(content)
        with pytest.raises(InputError, match=message):
            open_project(folder)


def test_work_dir_elsewhere_leaves_the_folder_untouched(folder, tmp_path, open_project):
    before = sorted(folder.iterdir())
    project = open_project(folder, tmp_path / 'state')
    project.add_class('coin')
    assert sorted(folder.iterdir()) == before
    assert (tmp_path / 'state' / 'project.json').is_file()


# ---------------------------------------------------------------- the images


def test_image_files_reject_links_to_files_outside_of_the_folder(folder, tmp_path):
    cv2.imwrite(str(tmp_path / 'secret.png'), random_image(20, 20))
    (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
    (folder / 'inner.png').symlink_to(folder / '0.png')
    files = ImageFiles(folder)
    ids = {files.name(image): image for image in files}
    for read in (files.size, files.content, files.thumbnail, files.path):
        with pytest.raises(InputError, match='a link to a file outside of the folder'):
            read(ids['link.png'])
    assert files.size(ids['inner.png']) == (80, 60)
    with pytest.raises(UnknownIdError):
        files.path('../secret.png')


def test_image_files_reject_decompression_bombs(folder, monkeypatch):
    Image.new('1', (20_000, 20_000)).save(folder / 'bomb.png')
    assert (folder / 'bomb.png').stat().st_size < 100_000
    files = ImageFiles(folder)
    bomb = next(image for image in files if files.name(image) == 'bomb.png')
    started = time.monotonic()
    for read in (files.size, files.content, files.thumbnail, lambda image: files.crop(image, (0, 0, 9, 9))):
        with pytest.raises(InputError, match='more than 100 million pixels'):
            read(bomb)
    assert time.monotonic() - started < 10  # decoding the image four times takes longer
    monkeypatch.setattr(image_access, 'MAX_BYTES', 100)
    with pytest.raises(InputError, match='the limit is 0 MiB'):
        files.size(bomb)


def test_image_files_rotate_images_like_the_detector(folder):
    """A JPEG with an EXIF orientation and an image of 16 bits are shown with the pixels of the detector."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_image(30, 50)).save(folder / 'turned.jpg', exif=exif)
    cv2.imwrite(str(folder / 'deep.png'), np.full((10, 20), 40_000, np.uint16))
    files = ImageFiles(folder)
    ids = {files.name(image): image for image in files}
    assert files.size(ids['turned.jpg']) == (30, 50)
    for name, shape in (('turned.jpg', (50, 30)), ('deep.png', (10, 20))):
        content, kind = files.content(ids[name])
        assert kind == 'image/png'
        shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert shown.shape[:2] == shape
        assert (shown == cv2.imread(str(folder / name))).all()
    assert files.content(ids['0.png']) == ((folder / '0.png').read_bytes(), 'image/png')


def test_thumbnail_and_crop_are_small_jpegs(folder):
    files = ImageFiles(folder)
    image = next(iter(files))
    for content, size in ((files.thumbnail(image), (80, 60)), (files.crop(image, (10, 10, 40.5, 30)), (31, 20))):
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[1::-1] == size
    (folder / '0.png').write_bytes((folder / '0.png').read_bytes()[:300])
    os.utime(folder / '0.png', ns=(1, 1))
    for read in (files.thumbnail, files.content):
        with pytest.raises(InputError, match='damaged'):
            read(image)


def test_folder_without_images_is_an_error_of_one_line(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no image in this folder'):
        Project(tmp_path / 'empty')
    with pytest.raises(InputError, match='no such folder'):
        Project(tmp_path / 'missing')
    assert not (tmp_path / 'empty' / '.dinor1').exists()


def test_work_dir_that_cannot_be_created_is_an_error_of_one_line(folder, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='is not a folder'):
        Project(folder, tmp_path / 'file' / 'state')


def test_project_of_thousands_of_images_opens_fast(tmp_path, open_project):
    folder = write_images(tmp_path / 'many', 1)
    for i in range(1, 3000):
        os.link(folder / '0.png', folder / f'{i}.png')
    started = time.monotonic()
    project = open_project(folder)
    assert len(project.files) == 3000
    assert time.monotonic() - started < 20
