"""Frames of videos: which are read, what damaged files say, and what is written."""

import os
import shutil
import subprocess
import sys

import cv2
import pytest

from dinor1.utils.errors import InputError
from dinor1.utils.image_file import is_video
from dinor1.utils.video_file import VideoReader, check_video, read_frame, split_frame, video_writer, webcam_number
from tests.videos import Camera, decoded, frame_index, grey_frame, write_video


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """A video of ten frames, ten per second."""
    return write_video(tmp_path_factory.mktemp('videos') / 'clip.mp4', 10)


@pytest.mark.parametrize(
    ('step', 'start', 'expected'),
    [(1, 0, [*range(10)]), (4, 0, [0, 4, 8]), (3, 2, [2, 5, 8]), (99, 0, [0]), (1, 10, [])],
)
def test_reader_gives_every_nth_frame(clip, step, start, expected):
    with VideoReader(clip) as reader:
        frames = list(reader.frames(step, start))
        assert [frame.number for frame in frames] == expected
        assert [frame_index(frame.image) for frame in frames] == expected
        assert [frame.seconds for frame in frames] == pytest.approx([index / 10 for index in expected])
        assert (reader.info.num_frames, reader.num_read) == (10, 10)
        assert reader.info.fps == pytest.approx(10)


def test_reader_ignores_a_wrong_number_of_frames(tmp_path):
    # Motion JPEG in AVI: the header says 12 frames, of which the first ones remain.
    whole = write_video(tmp_path / 'whole.avi', 12, codec='MJPG').read_bytes()
    (tmp_path / 'cut.avi').write_bytes(whole[: int(0.85 * len(whole))])
    with VideoReader(tmp_path / 'cut.avi') as reader:
        indices = [frame_index(frame.image) for frame in reader.frames()]
        assert indices == list(range(reader.num_read))
        assert 0 < reader.num_read < 12


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'an empty file; restore it'),
        (b'damaged', 'a damaged video'),
        (b'\0\0\0\x18ftypmp42' + bytes(90), 'a damaged video'),
        (None, 'no such video'),
    ],
)
def test_reader_rejects_files_in_one_line(tmp_path, content, message):
    path = tmp_path / 'a.mp4'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        check_video(path)
    assert str(error.value).startswith(f'{path}: ')
    assert '\n' not in str(error.value)


def test_reader_prints_nothing_about_a_damaged_file(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'damaged')
    code = f'from dinor1.utils.video_file import VideoReader\ntry:\n VideoReader({str(tmp_path / "a.mp4")!r})'
    code += "\nexcept ValueError as error:\n print(str(error).count('a damaged video'))"
    environment = {key: value for key, value in os.environ.items() if key != 'OPENCV_FFMPEG_LOGLEVEL'}
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ('1\n', '')


def test_reader_rejects_a_truncated_file(clip, tmp_path):
    (tmp_path / 'a.mp4').write_bytes(clip.read_bytes()[:-200])  # without its index
    with pytest.raises(InputError, match='a damaged video'):
        check_video(tmp_path / 'a.mp4')


def test_reader_takes_no_path_for_a_series_of_images(tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'a{index}.png'), grey_frame(index))
    with pytest.raises(InputError, match='no such video'):
        check_video(tmp_path / 'a%d.png')


def test_reader_rejects_an_absent_camera():
    with pytest.raises(InputError, match='webcam:77: no such camera'):
        check_video('webcam:77')


def test_read_frame_is_exact_and_rejects_frames_beyond_the_end(clip):
    assert [frame_index(read_frame(clip, index)) for index in (0, 7, 9)] == [0, 7, 9]
    with pytest.raises(InputError, match=r'clip.mp4@10: the video has no such frame'):
        read_frame(clip, 10)


def test_split_frame_names_frames_of_videos_only(clip, tmp_path):
    assert split_frame(f'{clip}@7') == (str(clip), 7)
    assert split_frame(str(clip)) is None
    assert split_frame(f'{clip}@x') is None
    assert split_frame(f'{tmp_path}/absent.mp4@7') is None
    # A file of exactly this name is that file.
    shutil.copy(clip, tmp_path / 'clip.mp4')
    (tmp_path / 'clip.mp4@7').write_bytes(b'')
    assert split_frame(f'{tmp_path}/clip.mp4@7') is None


@pytest.mark.parametrize(('source', 'number'), [('webcam:0', 0), ('webcam:12', 12), ('webcam:', None), ('a.mp4', None)])
def test_webcam_number_reads_the_number(source, number):
    assert webcam_number(source) == number


def test_is_video_by_suffix_or_content(clip, tmp_path):
    shutil.copy(clip, tmp_path / 'without_suffix')
    (tmp_path / 'broken.MOV').write_bytes(b'damaged')
    cv2.imwrite(str(tmp_path / 'a.png'), grey_frame(0))
    assert is_video(tmp_path / 'without_suffix')
    assert is_video(tmp_path / 'broken.MOV')
    assert not is_video(tmp_path / 'a.png')
    assert not is_video(tmp_path / 'absent.mp4')
    assert not is_video('\0')


def test_writer_writes_frames_of_any_size(tmp_path):
    with video_writer(tmp_path / 'new/a.mp4', 5) as writer:
        for index in range(3):
            writer.write(grey_frame(index, 80, 60))
        writer.write(grey_frame(3, 40, 30))
    frames = decoded(tmp_path / 'new/a.mp4')
    assert [frame_index(frame) for frame in frames] == [0, 1, 2, 3]
    assert {frame.shape for frame in frames} == {(60, 80, 3)}
    assert cv2.VideoCapture(str(tmp_path / 'new/a.mp4')).get(cv2.CAP_PROP_FPS) == pytest.approx(5)


@pytest.mark.parametrize(('fps', 'written'), [(239.2136, 239.21), (23.976, 23.976), (0.001, 0.1)])
def test_writer_writes_every_frame_rate(tmp_path, fps, written):
    with video_writer(tmp_path / 'a.mp4', fps) as writer:
        writer.write(grey_frame(0))
        writer.write(grey_frame(1))
    assert len(decoded(tmp_path / 'a.mp4')) == 2
    assert cv2.VideoCapture(str(tmp_path / 'a.mp4')).get(cv2.CAP_PROP_FPS) == pytest.approx(written, rel=1e-3)


def test_writer_repeats_frames_until_their_time(tmp_path):
    with video_writer(tmp_path / 'a.mp4', 10) as writer:
        for index, seconds in enumerate([0.0, 0.31, 0.32, 0.5]):
            writer.write(grey_frame(index), seconds)
    # Frame 1 is at 0.3 s, the fourth of the video; frame 2 is written once, although its time has passed.
    assert [frame_index(frame) for frame in decoded(tmp_path / 'a.mp4')] == [0, 1, 1, 1, 2, 3]


def test_writer_leaves_no_file_after_an_error(tmp_path):
    with pytest.raises(AttributeError), video_writer(tmp_path / 'a.mp4', 10) as writer:
        [writer.write(frame) for frame in (grey_frame(0), None)]
    with pytest.raises(InputError, match='cannot be written completely'), video_writer(tmp_path / 'a.mp4', 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_reader_of_a_camera_gives_frames_and_times(monkeypatch):
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    with VideoReader('webcam:0') as reader:
        assert reader.info == (30.0, None)
        frames = list(reader.frames(2))
    assert [frame.number for frame in frames] == [0, 2, 4]
    assert [frame_index(frame.image) for frame in frames] == [0, 2, 4]
    assert 0 <= frames[0].seconds <= frames[2].seconds < 5
