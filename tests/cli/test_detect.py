"""`dinor1 detect`: bad input in one line, classes that it prints, and folders with other files."""

import json
import shutil
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from dinor1.cli.main import main
from tests.model_files import random_image
from tests.videos import decoded, write_video

# Bytes that are not UTF-8, as Python decodes them, and half of a pair of UTF-16.
NOT_UTF8, SURROGATE = '\udcff', chr(0xD800)


class Outcome(NamedTuple):
    """Exit status, standard output and standard error of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def detect(model_files, image_folder, tmp_path, capfd):
    """``detect(*options, target=...)`` runs the command, on several targets of a list; the results are in ``out``."""

    def run(*options, target=None):
        files = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
        targets = target if isinstance(target, list) else [target or image_folder / '0.png']
        arguments = [*targets, *files, '--out-dir', tmp_path / 'out', *options]
        capfd.readouterr()
        status = 0
        try:
            main(['detect', *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def prompt(image_folder):
    """A valid prompt."""
    return ('--prompt', f'{image_folder / "0.png"}:5,5,30,40:cat')


def assert_refused(outcome, message):
    assert outcome.status == 2
    assert outcome.err.startswith('error: ')
    assert outcome.err.count('\n') == 1
    assert message in outcome.err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--prompt', '{good}:0.1,0.1,0.9,0.9:cat'], 'boxes are pixels x1,y1,x2,y2, and all numbers'),
        (['--prompt', '{good}:5,5,5.5,40:cat'], 'thinner than 1 pixel'),
        (['--prompt', '{good}:5,5,30,40:cat', '--normalized'], 'is not within 0..1'),
        (['--prompt', f'{{good}}:5,5,30,40:a{NOT_UTF8}'], r"the class name 'a\udcff' is not valid Unicode"),
        (['--prompt', f'{{good}}:5,5,30,40:a{SURROGATE}'], r"the class name 'a\ud800' is not valid Unicode"),
        (['--text', f'cat . a{NOT_UTF8}'], r"the class name 'a\udcff' is not valid Unicode"),
        (['--prompt', f'{{folder}}/{NOT_UTF8}.png:5,5,30,40'], 'no such image'),
        (['--prompt', f'{{folder}}/{SURROGATE}.png:5,5,30,40'], 'no such image'),
        (['--bank', f'{NOT_UTF8}.safetensors'], 'no such prompt bank'),
        (['--bank', f'{SURROGATE}.safetensors'], 'not a readable safetensors file'),
        (['--bank', '{folder}'], 'not a readable safetensors file'),
        (['{valid}', '--out-dir', f'{{folder}}/0.png/{NOT_UTF8}'], '--out-dir'),
        (['{valid}', '--out-dir', '{folder}/0.png'], '0.png is not a folder; give another path'),
        (['{valid}', '--out-dir', SURROGATE], r"'\ud800' is not valid Unicode; rename it"),
        (['{valid}', '--config', f'{NOT_UTF8}.py'], '.py'),
        (['{valid}', '--config', f'{SURROGATE}.py'], '.py'),
        (['{valid}', '--checkpoint', f'{NOT_UTF8}.pth'], '.pth'),
        (['{valid}', '--checkpoint', f'{SURROGATE}.pth'], '.pth'),
    ],
)
def test_detect_bad_option_is_one_line(detect, image_folder, prompt, tmp_path, options, message):
    places = dict(good=image_folder / '0.png', folder=image_folder, valid=f'--prompt={prompt[1]}')
    assert_refused(detect(*(option.format(**places) for option in options)), message)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('absent', None, 'no such image; check the path'),
        (f'absent{NOT_UTF8}', None, 'no such image; check the path'),
        (f'absent{SURROGATE}', None, 'no such image; check the path'),
        ('a.jpg', 'truncated', 'a.jpg: a truncated or damaged image (format JPEG); restore the file'),
        ('a.mp4', 'video', 'a.mp4: a damaged video, or of a format that OpenCV does not decode; restore it, or'),
        ('a.mp4', 'empty', 'a.mp4: an empty file; restore it'),
        ('a.txt', 'text', 'a.txt: not an image that can be read'),
        ('folder', [], 'no image in this folder, it is empty'),
        ('folder', ['text'], 'no image in this folder, only 1 .text'),
        ('folder', ['video'], 'no image in this folder, but videos'),
        ('folder', ['truncated', 'empty'], 'an empty file; restore it (none of the 2 images can be read)'),
    ],
)
@pytest.mark.parametrize('skip', [False, True])
def test_detect_bad_target_is_one_line(detect, prompt, tmp_path, name, content, message, skip):
    # Write the target.
    whole = cv2.imencode('.jpg', random_image(60, 80))[1].tobytes()
    kinds = dict(truncated=whole[: len(whole) // 2], video=b'\0\0\0\x18ftypmp42', text=b'text', empty=b'')
    suffixes = dict(truncated='.jpg', video='.mp4', text='.text', empty='.jpg')
    target = tmp_path / name
    if isinstance(content, list):
        target.mkdir()
        for kind in content:
            (target / f'{kind}{suffixes[kind]}').write_bytes(kinds[kind])
    elif content is not None:
        target.write_bytes(kinds[content])
    # Detect.
    assert_refused(detect(*prompt, *(['--skip-unreadable'] if skip else []), target=target), message)
    assert not (tmp_path / 'out').exists()


def test_detect_skips_unreadable_images(detect, prompt, image_folder, tmp_path, logged_warnings):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.png', 'c.tga'):
        shutil.copy(image_folder / '0.png', folder / name)
    (folder / 'b.jpg').write_bytes(b'')
    (folder / '._a.png').write_bytes(b'macOS writes this')
    (folder / 'notes.txt').write_text('not an image')
    assert_refused(
        detect(*prompt, target=folder),
        'restore it (1 of 3 images cannot be read; --skip-unreadable goes on without them)',
    )
    assert not (tmp_path / 'out').exists()
    outcome = detect(*prompt, '--skip-unreadable', target=folder)
    assert outcome.status == 0
    assert sorted(path.name for path in (tmp_path / 'out/preds').iterdir()) == ['a.json', 'c.json']
    assert set(logged_warnings()) == {f'{folder}: left out 1 of 4 files, which are not images (1 .txt)'}
    assert outcome.out.splitlines()[-2:] == [
        'Left out 1 of 3 images that cannot be read:',
        f'  {folder / "b.jpg"}: an empty file; restore it',
    ]


def test_detect_prints_the_classes(detect, image_folder):
    good = image_folder / '0.png'
    boxes = ['--prompt', f'{good}:5,5,30,40:Red cat', '--prompt', f'{good}:40,10,70,50:red CAT']
    outcome = detect(*boxes, '--negative-prompt', f'{good}:10,30,60,58:dog')
    assert outcome.status == 0
    assert "Classes: 'Red cat', 'dog' (negative)" in outcome.out.splitlines()


def test_detect_normalized_boxes_equal_pixels(detect, image_folder, tmp_path):
    results = []
    for options in (['5,6,40,30:cat'], ['0.0625,0.1,0.5,0.5:cat', '--normalized']):
        options[0] = f'{image_folder / "0.png"}:{options[0]}'
        assert detect('--prompt', *options, '--score-thr', 0).status == 0
        results.append(json.loads((tmp_path / 'out/preds/0.json').read_text()))
    pixels, normalized = results
    assert pixels['names'] == normalized['names']
    assert pixels['names']
    np.testing.assert_allclose(pixels['bboxes'], normalized['bboxes'], rtol=0, atol=1e-3)
    np.testing.assert_allclose(pixels['scores'], normalized['scores'], rtol=0, atol=1e-5)


def test_detect_reads_and_writes_names_that_are_not_utf8(detect, prompt, image_folder, tmp_path):
    target = f'{tmp_path}/a{NOT_UTF8}.png'
    shutil.copy(image_folder / '0.png', target)
    outcome = detect(*prompt, target=target)
    assert outcome.status == 0, outcome
    written = json.loads((tmp_path / f'out/preds/a{NOT_UTF8}.json').read_text())
    assert written['img_path'] == target


@pytest.fixture
def clip(tmp_path):
    """A video of eight frames."""
    return write_video(tmp_path / 'clip.mp4', 8)


def test_detect_takes_videos_and_prompts_on_their_frames(detect, clip, tmp_path):
    prompt = ('--prompt', f'{clip}@2:5,5,30,40:cat')
    outcome = detect(*prompt, '--frame-step', 3, '--flip', target=clip)
    assert outcome.status == 0, outcome
    assert 'Found on ' in outcome.out
    assert ' of 3 images' in outcome.out
    assert outcome.out.splitlines()[-1] == f'Drawing: {tmp_path / "out/vis/clip.mp4"}; boxes: {tmp_path / "out/preds"}'
    names = sorted(path.name for path in (tmp_path / 'out/preds').iterdir())
    assert names == ['clip_000000.json', 'clip_000003.json', 'clip_000006.json']
    assert json.loads((tmp_path / 'out/preds' / names[1]).read_text())['flip'] is True
    assert len(decoded(tmp_path / 'out/vis/clip.mp4')) == 3
    # The prompt is that of the frame as an image.
    cv2.imwrite(str(tmp_path / 'frame.png'), decoded(clip)[2])
    again = detect('--prompt', f'{tmp_path / "frame.png"}:5,5,30,40:cat', '--resume', '--flip', target=clip)
    assert (again.status, 'Kept from an earlier run: 3 frames' in again.out) == (0, True), again


def test_detect_exports_frames_that_validate(detect, clip, prompt, tmp_path):
    outcome = detect(*prompt, '--export', 'coco', '--frame-step', 4, '--score-thr', 0.01, target=clip)
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines()[-1] == f'Videos: {tmp_path / "out/vis/clip.mp4"}'
    with pytest.raises(SystemExit) as stop:
        main(['validate', str(tmp_path / 'out/annotations.json')])
    assert stop.value.code == 0
    assert sorted(path.name for path in (tmp_path / 'out/frames').iterdir()) == ['clip_000000.jpg', 'clip_000004.jpg']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--prompt', '{clip}:5,5,30,40'], 'clip.mp4: a video; name one of its frames, such as'),
        (['--prompt', '{clip}@8:5,5,30,40'], 'clip.mp4@8: the video has no such frame'),
        (['--prompt', '{clip}@0:5,5,300,40'], 'clip.mp4@0: box (5, 5, 300, 40) leaves the image of 80 x 60 pixels'),
        (['{valid}', '--frame-step', '0'], '--frame-step must be at least 1, got 0'),
        (['{valid}', '--max-frames', '0'], '--max-frames must be at least 1, got 0'),
    ],
)
def test_detect_bad_video_option_is_one_line(detect, clip, prompt, tmp_path, options, message):
    places = dict(clip=clip, valid=f'--prompt={prompt[1]}')
    assert_refused(detect(*(option.format(**places) for option in options), target=clip), message)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('target', 'options', 'message'),
    [
        ('webcam:77', [], 'webcam:77: no such camera'),
        ('webcam:77', ['--resume'], '--resume: a webcam shows other frames each time'),
        ('{image}', ['--resume'], '--resume keeps results of an earlier --export, or of videos'),
    ],
)
def test_detect_rejects_a_target_beside_a_video(detect, clip, prompt, image_folder, tmp_path, target, options, message):
    targets = [clip, target.format(image=image_folder / '0.png')]
    assert_refused(detect(*prompt, *options, target=targets), message)
    assert not (tmp_path / 'out').exists()


def test_detect_skips_damaged_videos(detect, clip, prompt, tmp_path):
    bad = tmp_path / 'bad.mp4'
    bad.write_bytes(b'damaged')
    outcome = detect(*prompt, '--skip-unreadable', '--max-frames', 1, target=[clip, bad])
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines()[-2] == 'Left out 1 of 2 images and videos that cannot be read:'
    assert outcome.out.splitlines()[-1].startswith(f'  {bad}: a damaged video')
