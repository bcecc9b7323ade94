"""The tables in results/: format, hashes, and the tables on pages that are made from them."""

from pathlib import Path

import pytest

from dinor1.studies.results import add_rows, config_hash, read_rows
from dinor1.studies.study import load_study, table

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / 'results').glob('*.jsonl'))
# The page of GRQO has other tables, see tests/tools/test_grqo_study.py.
STUDIES = sorted(path for path in (ROOT / 'configs/studies').glob('*.py') if path.stem != 'grqo')


def test_every_study_has_a_table():
    assert {path.stem for path in STUDIES} <= {path.stem for path in TABLES}


@pytest.mark.parametrize('path', TABLES, ids=lambda path: path.stem)
def test_committed_table_equals_its_copy(path, tmp_path):
    rows = read_rows(path)
    add_rows(tmp_path / 'copy.jsonl', rows)
    assert (tmp_path / 'copy.jsonl').read_bytes() == path.read_bytes()
    assert path.stat().st_size < 2**20
    for row in rows:
        if 'config' in row:
            assert row['config_hash'] == config_hash(row['config'], row['options'], row.get('start'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_one_page_contains_table_of_study(path, monkeypatch):
    """The text between the markers is generated."""
    monkeypatch.chdir(ROOT)
    text = table(load_study(path.relative_to(ROOT)), f'results/{path.stem}.jsonl')
    pages = [page for page in (ROOT / 'docs').rglob('*.md') if f'<!-- {path.stem}:begin -->' in page.read_text()]
    assert len(pages) == 1
    assert f'<!-- {path.stem}:begin -->\n\n{text}\n\n<!-- {path.stem}:end -->' in pages[0].read_text()
