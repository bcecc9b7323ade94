"""Tables in Markdown, compared with what is written by hand and with what Python-Markdown makes of them."""

import pytest

from dinor1.utils.markdown import table, table_head, table_row
from dinor1.utils.processor import processor_name


def test_a_table_without_rows():
    assert table(['arm'], []) == '| arm |\n|---|'
    assert table_head(['arm', 'AP']) == '| arm | AP |\n|---|---:|'


def test_rows_and_alignment():
    text = table(['run', 'file', 'AP'], [['a', 'b.json', 1], ['c', '', '-']], 'llr')
    assert text.splitlines() == ['| run | file | AP |', '|---|---|---:|', '| a | b.json | 1 |', '| c |  | - |']


def test_a_cell_never_ends_a_cell_or_a_line():
    """As many cells as columns come back, whatever they hold."""
    markdown = pytest.importorskip('markdown')
    html = markdown.markdown(table(['a', 'b'], [['x | y', 'two\nlines']]), extensions=['tables'])
    assert html.count('<td') == 2
    assert '>two lines</td>' in html
    assert table_row(['x | y']) == '| x / y |'


@pytest.mark.parametrize('align', ['l', 'lc'])
def test_another_alignment_is_refused(align):
    with pytest.raises(ValueError, match='expected 2 letters l or r'):
        table_head(['a', 'b'], align)


def test_the_processor_has_a_name():
    assert processor_name().strip()
    assert '\n' not in processor_name()
