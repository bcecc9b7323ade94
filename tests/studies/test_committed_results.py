"""The tables in results/: in their written form, with true hashes, and the source of every page."""

from pathlib import Path

import pytest

from dinor1.studies.results import add_rows, config_hash, read_rows
from dinor1.studies.study import load_study, table

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / 'results').glob('*.jsonl'))
# GRQO's page has tables of its own, see tests/tools/test_grqo_study.py.
STUDIES = sorted(path for path in (ROOT / 'configs/studies').glob('*.py') if path.stem != 'grqo')


def test_there_is_a_table_per_study():
    assert {path.stem for path in STUDIES} <= {path.stem for path in TABLES}


@pytest.mark.parametrize('path', TABLES, ids=lambda path: path.stem)
def test_a_table_is_as_it_is_written(path, tmp_path):
    rows = read_rows(path)
    add_rows(tmp_path / 'copy.jsonl', rows)
    assert (tmp_path / 'copy.jsonl').read_bytes() == path.read_bytes()
    assert path.stat().st_size < 2**20
    for row in rows:
        if 'config' in row:
            assert row['config_hash'] == config_hash(row['config'], row['options'], row.get('start'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_one_page_has_the_table_of_a_study(path, monkeypatch):
    """Nothing between the markers is typed by hand."""
    monkeypatch.chdir(ROOT)
    text = table(load_study(path.relative_to(ROOT)), f'results/{path.stem}.jsonl')
    pages = [page for page in (ROOT / 'docs').rglob('*.md') if f'<!-- {path.stem}:begin -->' in page.read_text()]
    assert len(pages) == 1
    assert f'<!-- {path.stem}:begin -->\n\n{text}\n\n<!-- {path.stem}:end -->' in pages[0].read_text()
