"""Folders of images: listed, ignored, skipped and rejected files."""

import os

import cv2
import pytest

from dinor1.inference import list_images, readable_images
from dinor1.utils.errors import InputError
from tests.model_files import random_image


def fill(folder, *names):
    """Write files; those named ``.png`` are images, others are damaged."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b'no image')
        if name.endswith('.png') and not name.startswith('.'):
            cv2.imwrite(str(folder / name), random_image(24, 32))
    return folder


def test_list_images_finds_every_format_and_ignores_hidden_files(tmp_path, logged_warnings):
    names = ['a.JPG', 'b.gif', 'c.avif', 'd.jp2', 'e.tga', 'f.ppm', 'g.heic', 'h.jfif', 'i.png']
    fill(tmp_path / 'a', *names, '._i.png', '.hidden.jpg', 'Thumbs.db', 'desktop.ini', '.DS_Store')
    (tmp_path / 'a/folder.png').mkdir()
    assert list_images(tmp_path / 'a') == [str(tmp_path / 'a' / name) for name in names]
    assert logged_warnings() == []


def test_list_images_counts_other_files(tmp_path, logged_warnings):
    fill(tmp_path / 'a', 'a.png', 'b.txt', 'c.TXT', 'd.mp4', 'notes')
    assert list_images(tmp_path / 'a') == [str(tmp_path / 'a/a.png')]
    (message,) = logged_warnings()
    assert message.startswith(f'{tmp_path / "a"}: left out 4 of 5 files, which are not images')
    assert '(1 without suffix, 1 .mp4, 2 .txt)' in message


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ((), 'no image in this folder, it is empty'),
        (('.hidden.png',), 'no image in this folder, it is empty'),
        (('a.txt', 'b.json'), 'no image in this folder, only 1 .json, 1 .txt'),
        (
            ('a.mp4', 'b.txt'),
            r"no image in this folder, but videos \(1 .mp4, 1 .txt\); .* pattern in quotes, '.*/a/\*.mp4'$",
        ),
    ],
)
def test_list_images_rejects_folders_without_images(tmp_path, names, message):
    with pytest.raises(InputError, match=message) as error:
        list_images(fill(tmp_path / 'a', *names))
    assert '\n' not in str(error.value)


def test_list_images_rejects_a_folder_of_folders(tmp_path):
    (tmp_path / 'inner').mkdir()
    with pytest.raises(InputError, match='only sub-folders, which are not searched'):
        list_images(tmp_path)


@pytest.mark.parametrize('path', ['absent', 'absent\udcff', f'absent{chr(0xD800)}', 'absent\0', 'a' * 5000])
def test_list_images_rejects_missing_paths(tmp_path, path):
    with pytest.raises(InputError, match='no such image; check the path'):
        list_images(f'{tmp_path}/{path}')


@pytest.mark.skipif(os.geteuid() == 0, reason='an administrator may read every folder')
def test_list_images_rejects_a_folder_without_permission(tmp_path):
    folder = fill(tmp_path / 'a', 'a.png')
    folder.chmod(0)
    with pytest.raises(InputError, match='cannot be listed'):
        list_images(folder)
    folder.chmod(0o755)


def test_readable_images_of_nothing_is_empty():
    assert readable_images([]) == ([], [])


def test_readable_images_names_unreadable_files(tmp_path):
    paths = [str(fill(tmp_path, name) / name) for name in ('a.png', 'b.jpg', 'c.png', 'd.gif')]
    good, bad = paths[::2], paths[1::2]
    assert readable_images(good) == (good, [])
    with pytest.raises(InputError, match=r'b\.jpg: not an image .*\(2 of 4 images cannot be read; --skip-unreadable'):
        readable_images(paths)
    readable, problems = readable_images(paths, skip=True)
    assert readable == good
    assert [message.split(': ')[0] for message in problems] == bad
    for skip in (False, True):
        with pytest.raises(InputError, match=r'b\.jpg: not an image .*\(none of the 2 images can be read\)'):
            readable_images(bad, skip)
        with pytest.raises(InputError, match='restore the file$'):
            readable_images(bad[:1], skip)


def test_readable_images_shows_progress_in_a_long_check(tmp_path, capsys):
    paths = [str(fill(tmp_path, 'a.png') / 'a.png')] * 3
    readable_images(paths)
    assert capsys.readouterr().err == ''
    readable_images(paths, progress_after=0)
    assert '3/3' in capsys.readouterr().err
