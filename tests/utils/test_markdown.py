"""Tables in Markdown, compared with text written by hand and with the HTML of Python-Markdown."""

import pytest

from dinor1.utils.markdown import table, table_head, table_row
from dinor1.utils.processor import processor_name


def test_table_without_rows():
    assert table(['arm'], []) == '| arm |\n|---|'
    assert table_head(['arm', 'AP']) == '| arm | AP |\n|---|---:|'


def test_table_rows_and_alignment():
    text = table(['run', 'file', 'AP'], [['a', 'b.json', 1], ['c', '', '-']], 'llr')
    assert text.splitlines() == ['| run | file | AP |', '|---|---|---:|', '| a | b.json | 1 |', '| c |  | - |']


def test_table_escapes_bars_and_line_breaks():
    """The number of cells equals the number of columns for every content."""
    markdown = pytest.importorskip('markdown')
    html = markdown.markdown(table(['a', 'b'], [['x | y', 'two\nlines']]), extensions=['tables'])
    assert html.count('<td') == 2
    assert '>two lines</td>' in html
    assert table_row(['x | y']) == '| x / y |'


@pytest.mark.parametrize('align', ['l', 'lc'])
def test_table_head_rejects_wrong_alignment(align):
    with pytest.raises(ValueError, match='expected 2 letters l or r'):
        table_head(['a', 'b'], align)


def test_processor_name_is_one_line():
    assert processor_name().strip()
    assert '\n' not in processor_name()
