"""benchmark_loaders: its measurements, file, table and page, and bad input."""

import json

import cv2
import numpy as np
import pytest

TOOL = 'analysis_tools/benchmark_loaders'
WAYS = ['MMDetection', 'full decoding', 'reduced decoding', 'cache']


@pytest.fixture
def folder(tmp_path):
    """Folder with sixteen images of 64 x 48 pixels, in two subfolders, and a text file."""
    root = tmp_path / 'photographs'
    for i in range(16):
        path = root / ('a' if i % 2 else 'b') / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((48, 64, 3), 10 * i, np.uint8))
    (root / 'notes.txt').write_text('no image')
    return root


def test_benchmark_loaders_measures_and_makes_table(call, folder, tmp_path):
    # Measure.
    file, page = tmp_path / 'loaders.json', tmp_path / 'page.md'
    options = ['--sizes', '--images', folder, '--count', 16, '--scale', 20, 20, '--workers', 1, 2]
    outcome = call(TOOL, *options, '--rounds', 2, '--step-ms', 20, '--out', file)
    assert (outcome.status, outcome.err) == (0, '')

    # Check the file.
    record = json.loads(file.read_text())
    assert record['command'].startswith('python tools/analysis_tools/benchmark_loaders.py --sizes --images')
    expected = [(str(folder), workers, way) for workers in (1, 2) for way in WAYS]
    assert [(row['images'], row['workers'], row['way']) for row in record['rows']] == expected
    for row in record['rows']:
        assert (row['number'], row['size']) == (16, [64, 48])
        speed = [16 / seconds / row['workers'] for seconds in row['seconds']]
        assert row['images_per_second']['median'] == pytest.approx(np.median(speed))
        assert row['cpu_milliseconds']['low'] <= row['cpu_milliseconds']['median'] <= row['cpu_milliseconds']['high']
        assert min(row['cpu_seconds']) > 0
        assert (row['relative'] == 1) == (row['way'] == 'MMDetection')
        # The cache holds 16 images of 20 x 15 pixels.
        assert row.get('megabytes') == (0.0144 if row['way'] == 'cache' else None)

    # Check the table.
    page.write_text('before\n<!-- loaders:begin -->\nold\n<!-- loaders:end -->\nafter\n')
    outcome = call(TOOL, '--table', file, '--update', page)
    assert (outcome.status, outcome.err) == (0, '')
    assert 'needs 50 images per second for a rank, 100 for two' in outcome.out
    row, double = record['rows'][0], record['rows'][4]
    speed, cpu = row['images_per_second']['median'], row['cpu_milliseconds']['median']
    line = next(line for line in outcome.out.splitlines() if line.startswith(f'| 16 {folder}, 64 x 48 | MMDetection |'))
    cells = [cell.strip().split(' ')[0] for cell in line.strip('|').split('|')[2:]]
    expected = [f'{speed:.0f}', f'{double["images_per_second"]["median"]:.0f}', f'{cpu:.2f}', '1.00']
    assert cells == [*expected, f'{speed / 50:.1f}', f'{cpu / 20:.0%}']
    assert len([line for line in outcome.out.splitlines() if line.startswith('| 16 ')]) == 4
    text = page.read_text()
    assert outcome.out.strip() in text
    assert text.startswith('before')
    assert text.endswith('after\n')
    assert 'old' not in text


def test_benchmark_loaders_generates_photographs(call):
    outcome = call(TOOL, '--sizes', '40x30', '--count', 8, '--workers', 1, '--rounds', 1)
    assert (outcome.status, outcome.err) == (0, '')
    for way in WAYS[:3]:
        assert f'| 8 made up, 40 x 30 | {way} |' in outcome.out
    assert '| 8 made up, 40 x 30 | cache, 1.8 MB |' in outcome.out


def test_make_photographs_is_deterministic(tmp_path):
    from dinor1.benchmarks.loader_benchmark import make_photographs

    made = []
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        made.append(make_photographs(tmp_path / name, 100, 60, 2))
    contents = [[path.read_bytes() for path in paths] for paths in made]
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[0][1]
    assert cv2.imread(str(made[0][0])).shape == (60, 100, 3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rounds', '0'], '--rounds: must be at least 1, got 0'),
        (['--workers', '1', '0'], '--workers: must be at least 1, got 0'),
        (['--scale', '0', '20'], '--scale: must be at least 1, got 0'),
        (['--count', '8'], '--count 8: a worker would have no batch; give at least 16'),
        (['--step-ms', '0'], '--step-ms: must be positive, got 0'),
        (['--sizes', '640'], '--sizes 640: expected WIDTHxHEIGHT in pixels, such as 640x480'),
        (['--sizes'], 'nothing to measure: give --sizes or --images'),
        (['--images', 'nowhere'], 'nowhere: no such folder; check the path'),
        (['--update', 'page.md'], '--update: needs --table FILE.json'),
        (['--table', 'nowhere.json'], 'nowhere.json: no such file; check the path'),
    ],
)
def test_benchmark_loaders_bad_input(call, arguments, message):
    outcome = call(TOOL, *arguments)
    assert outcome.status == 2
    assert outcome.out == ''
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1


def test_benchmark_loaders_rejects_bad_files(call, tmp_path):
    outcome = call(TOOL, '--images', tmp_path)
    assert outcome.status == 2
    assert 'has no image (.jpg, .jpeg' in outcome.err
    (tmp_path / 'a.json').write_text('{}')
    outcome = call(TOOL, '--table', tmp_path / 'a.json')
    assert outcome.status == 2
    assert 'a.json: not a result of this tool; make one with --out' in outcome.err
    for i in range(16):
        (tmp_path / f'{i}.jpg').write_bytes(b'no image')
    outcome = call(TOOL, '--sizes', '--images', tmp_path)
    assert outcome.status == 2
    assert '0.jpg: not an image that can be read; remove it, or name another folder' in outcome.err
