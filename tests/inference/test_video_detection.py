"""Detection on videos: files of the frames, the video with detections, interrupted runs, and memory."""

import json
import shutil
import weakref

import cv2
import pytest

from dinor1.inference import (
    VideoOptions,
    detect_videos,
    label_files,
    list_targets,
    readable_videos,
    split_videos,
    video_outputs,
)
from dinor1.utils.errors import InputError
from tests.videos import Camera, decoded, frame_index, write_video


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp('videos') / 'clip.mp4', 10))


@pytest.fixture
def searched(detector, monkeypatch):
    """Lists of the indices of the frames that the detector searches, one per call."""
    calls, predict = [], detector.predict

    def recorded(sources, *args, **kwargs):
        calls.append([frame_index(source) for source in sources])
        return predict(sources, *args, **kwargs)

    monkeypatch.setattr(detector, 'predict', recorded)
    return calls


def detect(detector, source, out_dir, **options):
    (result,) = detect_videos(detector, video_outputs([], [source], out_dir), out_dir, **options)
    return result


def record(path):
    return json.loads(path.read_text())


def test_detect_videos_equals_predict_on_the_frames(detector, clip, tmp_path, capsys):
    result = detect(detector, clip, tmp_path, score_thr=0.01, batch_size=2, videos=VideoOptions(step=4), nms_thr=0.5)
    assert 'ETA' in capsys.readouterr().err
    assert [path.name for path in result.results] == ['clip_000000.json', 'clip_000004.json', 'clip_000008.json']
    frames = decoded(clip)
    expected = detector.predict(frames[::4], 2, 0.01, nms_thr=0.5, as_dict=True)
    total = 0
    for index, path, found in zip((0, 4, 8), result.results, expected, strict=True):
        written = record(path)
        assert {key: written[key] for key in found} == found
        assert (written['video'], written['frame'], written['seconds']) == (clip, index, index / 10)
        assert written['nms_thr'] == 0.5
        total += len(found['names'])
    assert sum(result.counts.counts.values()) == total > 0
    assert (result.counts.num_images, result.num_resumed, result.note) == (3, 0, '')
    # The video with detections has the searched frames, at the speed of the original.
    drawing = tmp_path / 'vis/clip.mp4'
    assert len(decoded(drawing)) == 3
    assert cv2.VideoCapture(str(drawing)).get(cv2.CAP_PROP_FPS) == pytest.approx(2.5)
    assert not (tmp_path / 'frames').exists()


def test_detect_videos_stops_after_max_frames(detector, searched, clip, tmp_path):
    result = detect(detector, clip, tmp_path, batch_size=4, videos=VideoOptions(max_frames=6))
    assert searched == [[0, 1, 2, 3], [4, 5]]
    assert result.note == ''


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(videos=VideoOptions(step=0)), 'step must be an integer of at least 1, got 0'),
        (dict(videos=VideoOptions(max_frames=0)), 'max_frames must be an integer of at least 1, got 0'),
        (dict(batch_size=0), 'batch_size must be an integer of at least 1, got 0'),
    ],
)
def test_detect_videos_rejects_numbers_out_of_range(detector, clip, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        detect(detector, clip, tmp_path, **options)
    assert not (tmp_path / 'vis').exists()


def test_detect_videos_notes_frames_that_are_missing(detector, tmp_path):
    whole = write_video(tmp_path / 'whole.avi', 12, codec='MJPG').read_bytes()
    (tmp_path / 'cut.avi').write_bytes(whole[: int(0.85 * len(whole))])
    result = detect(detector, str(tmp_path / 'cut.avi'), tmp_path / 'out')
    assert 0 < len(result.results) < 12
    assert result.note.endswith(f'{len(result.results)} of the 12 frames of the header can be read')


def test_detect_videos_resumes_where_it_stopped(detector, searched, clip, tmp_path):
    detect(detector, clip, tmp_path, batch_size=2, videos=VideoOptions(max_frames=5))
    (tmp_path / 'preds/clip_000001.json').write_text('{"names": ')  # damaged
    searched.clear()
    result = detect(detector, clip, tmp_path, batch_size=5, resume=True)
    assert searched == [[1], [5, 6, 7, 8, 9]]
    assert result.num_resumed == 4
    assert len(decoded(tmp_path / 'vis/clip.mp4')) == 10
    with pytest.raises(InputError, match=r'other settings \(score_thr\)'):
        detect(detector, clip, tmp_path, score_thr=0.2, resume=True)
    # Without resume, all frames are searched again.
    searched.clear()
    detect(detector, clip, tmp_path, batch_size=10)
    assert searched == [[*range(10)]]


def test_detect_videos_keeps_results_of_an_interrupted_run(detector, searched, clip, tmp_path, monkeypatch):
    recorded = detector.predict

    def interrupted(sources, *args, **kwargs):
        if frame_index(sources[0]) >= 4:
            raise KeyboardInterrupt
        return recorded(sources, *args, **kwargs)

    monkeypatch.setattr(detector, 'predict', interrupted)
    with pytest.raises(KeyboardInterrupt):
        detect(detector, clip, tmp_path, batch_size=2)
    assert list((tmp_path / 'vis').iterdir()) == []
    monkeypatch.setattr(detector, 'predict', recorded)
    searched.clear()
    assert detect(detector, clip, tmp_path, batch_size=10, resume=True).num_resumed == 4
    assert searched == [[4, 5, 6, 7, 8, 9]]


def test_detect_videos_holds_one_batch_of_frames(detector, clip, tmp_path, monkeypatch):
    alive, seen, predict = [], [], detector.predict

    def counted(sources, *args, **kwargs):
        seen.extend(weakref.ref(source) for source in sources)
        alive.append(sum(reference() is not None for reference in seen))
        return predict(sources, *args, **kwargs)

    monkeypatch.setattr(detector, 'predict', counted)
    detect(detector, clip, tmp_path, batch_size=1)
    assert len(alive) == 10
    assert max(alive) <= 2  # the frame that is searched, and the last frame that was drawn


def test_webcam_ends_with_ctrl_c_and_keeps_its_video(detector, tmp_path, monkeypatch):
    capture = cv2.VideoCapture

    def opened(*arguments):
        return Camera(0, interrupted=True) if arguments == (0,) else capture(*arguments)

    monkeypatch.setattr(cv2, 'VideoCapture', opened)
    result = detect(detector, 'webcam:0', tmp_path, batch_size=1)
    assert [path.name for path in result.results] == [f'webcam_0_{index:06d}.json' for index in range(3)]
    assert len(decoded(tmp_path / 'vis/webcam_0.mp4')) >= 3


@pytest.mark.parametrize('format', ['coco', 'yolo', 'odvg', 'labelme'])
def test_label_files_exports_frames_as_images(detector, clip, image_folder, tmp_path, format):
    targets = [str(image_folder / '0.png'), clip]
    labelled = label_files(detector, targets, tmp_path, format, 0.01, video_options=VideoOptions(step=5), nms_thr=0.5)
    assert labelled.counts.num_images == 3
    assert labelled.drawings == [tmp_path / 'vis/clip.mp4']
    frames = {path.name: path for path in (tmp_path / 'frames').iterdir()}
    assert sorted(frames) == ['clip_000000.jpg', 'clip_000005.jpg']
    assert [frame_index(cv2.imread(str(frames[name]))) for name in sorted(frames)] == [0, 5]
    # The labels have the paths of the images relative to their own file.
    if format == 'coco':
        images = json.loads((tmp_path / 'annotations.json').read_text())['images']
        assert [image['file_name'] for image in images][1:] == ['frames/clip_000000.jpg', 'frames/clip_000005.jpg']
    elif format == 'yolo':
        assert frame_index(cv2.imread(str(tmp_path / 'images/clip_000005.jpg'))) == 5
        assert (tmp_path / 'labels/clip_000005.txt').is_file()
    elif format == 'labelme':
        content = json.loads((tmp_path / 'labelme/clip_000005.json').read_text())
        assert content['imagePath'] == '../frames/clip_000005.jpg'
    else:
        lines = (tmp_path / 'annotations.jsonl').read_text().splitlines()
        assert json.loads(lines[2])['filename'] == 'frames/clip_000005.jpg'


def test_label_files_detects_frames_again_whose_image_is_missing(detector, searched, clip, tmp_path):
    label_files(detector, [clip], tmp_path, 'coco', batch_size=10)
    (tmp_path / 'frames/clip_000003.jpg').unlink()
    searched.clear()
    labelled = label_files(detector, [clip], tmp_path, 'coco', resume=True)
    assert [call for call in searched if call] == [[3]]
    assert labelled.num_resumed == 9
    assert (tmp_path / 'frames/clip_000003.jpg').is_file()


def test_video_outputs_of_equal_names_are_distinct(clip, tmp_path):
    (tmp_path / 'a').mkdir()
    other = shutil.copy(clip, tmp_path / 'a')
    outputs = video_outputs(['frames/clip_000004.jpg', 'clip_3_000004.png'], [clip, str(other)], tmp_path)
    assert [output.name for output in outputs] == ['clip_2', 'clip_4']


def test_video_outputs_reject_folders_in_which_a_video_is_overwritten(clip, tmp_path):
    (tmp_path / 'vis').mkdir()
    video = shutil.copy(clip, tmp_path / 'vis')
    with pytest.raises(InputError, match='is a target and would be overwritten'):
        video_outputs([], [str(video)], tmp_path)


def test_list_targets_and_split_videos(clip, image_folder, tmp_path):
    (tmp_path / 'a').mkdir()
    video, image = shutil.copy(clip, tmp_path / 'a'), shutil.copy(image_folder / '0.png', tmp_path / 'a')
    targets = list_targets([f'{tmp_path}/a/*', 'webcam:1', clip])
    assert targets == [str(image), str(video), 'webcam:1', clip]
    assert split_videos(targets) == ([str(image)], [str(video), 'webcam:1', clip])


def test_readable_videos_names_damaged_ones(clip, tmp_path):
    bad = tmp_path / 'bad.mp4'
    bad.write_bytes(b'damaged')
    assert readable_videos([]) == ([], [])
    assert readable_videos([clip]) == ([clip], [])
    with pytest.raises(InputError, match=r'bad\.mp4: a damaged video'):
        readable_videos([clip, str(bad)])
    readable, problems = readable_videos([str(bad), clip], skip=True)
    assert readable == [clip]
    assert [problem.split(': ')[0] for problem in problems] == [str(bad)]
    with pytest.raises(InputError, match='a damaged video'):
        readable_videos([str(bad)], skip=True)
