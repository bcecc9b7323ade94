"""The documentation: links lead somewhere, commands can be parsed, configs and tools exist."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from dinor1.cli.main import COMMANDS, build_parser
from dinor1.utils.config_files import find_config

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ('README.md', 'model_zoo.md', 'CONTRIBUTING.md', 'SECURITY.md', 'data/README.md')
PAGES = [ROOT / name for name in ROOT_PAGES] + sorted((ROOT / 'docs').rglob('*.md'))
CONFIG = re.compile(r'(configs|dino_r1|vis_gdino|blocks)/[\w./-]+$')


def without_code(text: str) -> str:
    return re.sub(r'^ *```.*?^ *```', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub and MkDocs make them."""
    titles = re.findall(r'^#+ (.*)$', without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r'\s+', '-', re.sub(r'[^\w\- ]', '', title.lower()).strip()) for title in titles}


def commands(page: Path) -> list[list[str]]:
    """The commands of the shell blocks, as lists of arguments without environment variables."""
    found = []
    for block in re.findall(r'^```bash\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE):
        for line in re.sub(r'\\\n\s*', ' ', block).splitlines():
            words = shlex.split(line.strip().removeprefix('bash '), comments=True)
            while words and re.match(r'[A-Z_]\w*=', words[0]):
                del words[0]
            if words:
                found.append(words)
    return found


def test_anchors_and_commands_are_found(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('# `A` and b: c?\n\n```bash\n# comment\nX=1 dinor1 train a \\\n  --amp "b c"\n```\n')
    assert anchors(page) == {'a-and-b-c'}
    assert commands(page) == [['dinor1', 'train', 'a', '--amp', 'b c']]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', without_code(page.read_text())):
        if '://' in link:
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_known_options_configs_and_tools(page):
    parser = build_parser()
    for words in commands(page):
        for word in words:
            if CONFIG.match(word) and not (ROOT / word).exists():
                find_config(word)
        script = words[1] if words[0] == 'python' else words[0]
        if script.startswith('tools/'):
            assert (ROOT / script).is_file(), words
        if words[0] == 'dinor1':
            message = io.StringIO()
            try:
                with contextlib.redirect_stderr(message):
                    parser.parse_args([word for word in words[1:] if word != '...'])
            except SystemExit:
                pytest.fail(f'{shlex.join(words)}: {message.getvalue()}')


def test_command_line_page_has_every_command():
    text = (ROOT / 'docs/command_line.md').read_text()
    assert [name for name in COMMANDS if f'| `dinor1 {name}' not in text] == []


def test_reference_names_exist_and_roles_become_links(monkeypatch):
    """The source is read by griffe, as for the pages of the reference."""
    griffe = pytest.importorskip('griffe')
    monkeypatch.chdir(ROOT)
    extensions = griffe.load_extensions('docs/sphinx_roles.py:SphinxRoles')
    package = griffe.load('dinor1', search_paths=['.'], extensions=extensions, allow_inspection=False)
    names = [name for page in PAGES for name in re.findall(r'^::: (\S+)$', page.read_text(), re.MULTILINE)]
    assert len(names) > 200
    for name in names:
        assert package[name.split('.')[1:]].kind, name
    inferencer = package['inference.DINOR1Inferencer']
    assert inferencer.canonical_path == 'dinor1.inference.inferencer.DINOR1Inferencer'
    detector = 'dinor1.models.detectors.dino_r1.DINOR1'
    assert f'<autoref optional identifier="{detector}"><code>DINOR1</code>' in inferencer.docstring.value
    assert f'identifier="{inferencer.canonical_path}.predict"' in inferencer.docstring.value
    assert ':class:' not in inferencer.docstring.value
