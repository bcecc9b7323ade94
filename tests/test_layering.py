"""The layers of the package: which module may import which, no import cycles, constructors of moderate length."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import dinor1

ROOT = Path(dinor1.__file__).parent
# Each layer imports itself and the layers before it. The root package, which only offers names, is open to all.
LAYERS = (
    ('utils', 'registry', 'ops', 'annotations'),
    ('structures',),
    ('models', 'datasets', 'evaluation'),
    ('engine', 'visualization', 'inference'),
    ('annotate',),
    ('benchmarks', 'studies', 'cli'),
    ('__main__',),
)
LAYER_OF = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
# Folders of one layer that must not import each other.
FORBIDDEN = {('models', 'datasets')}
# Folders that blocks may import in addition to their own, and the blocks whose papers build on another block.
BELOW_BLOCKS = {*LAYERS[0], 'structures', ''}
BLOCKS_OF_BLOCK = {
    'category_graph': {'graph_transformer', 'nfe'},
    'norm_conversion': {'normalization'},
}
MAX_ARGUMENTS = 13
ROOMS_WITH_SHORT_CONSTRUCTORS = ('models', 'engine', 'structures', 'inference')


class Import(NamedTuple):
    """An import statement.

    Attributes:
        source: Module that has the statement.
        target: Module of this package that it imports.
        line: Line number.
        at_import: Whether it runs when the module is imported: it is in no function, and not for type checkers only.
    """

    source: str
    target: str
    line: int
    at_import: bool

    def __str__(self) -> str:
        return f'{self.source}:{self.line} imports {self.target}'


def read_modules() -> dict[str, ast.Module]:
    """Syntax tree of every module by its dotted name; a package has the name of its folder."""
    trees = {}
    for path in sorted(ROOT.rglob('*.py')):
        parts = ['dinor1', *path.relative_to(ROOT).with_suffix('').parts]
        trees['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = ast.parse(path.read_text(), str(path))
    return trees


def is_package(module: str) -> bool:
    return ROOT.joinpath(*module.split('.')[1:]).is_dir()


def room_of(module: str) -> str:
    """Folder or module directly below the root package; empty for the root package itself."""
    return module.split('.')[1] if '.' in module else ''


def runs_later(node: ast.AST) -> bool:
    """Whether the statements in a node do not run when the module is imported."""
    type_checking = isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or type_checking


def statements(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements below a node, and whether each runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import
        else:
            yield from statements(child, at_import and not runs_later(child))


def targets(node: ast.Import | ast.ImportFrom, module: str, known: set[str]) -> Iterator[str]:
    """Modules of this package that a statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split('.')[0] == 'dinor1')
        return
    base = node.module or ''
    if node.level:
        package = module.split('.') if is_package(module) else module.split('.')[:-1]
        base = '.'.join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
    if base.split('.')[0] == 'dinor1':
        for alias in node.names:
            name = f'{base}.{alias.name}'
            yield name if name in known else base


@pytest.fixture(scope='module')
def modules() -> dict[str, ast.Module]:
    return read_modules()


@pytest.fixture(scope='module')
def imports(modules) -> list[Import]:
    known = set(modules)
    return [
        Import(module, target, node.lineno, at_import)
        for module, tree in modules.items()
        for node, at_import in statements(tree)
        for target in targets(node, module, known)
    ]


def test_every_folder_has_a_layer(modules):
    rooms = {room_of(module) for module in modules} - {'', 'blocks'}
    assert rooms == set(LAYER_OF)


def test_every_import_names_a_module_that_exists(modules, imports):
    assert [str(i) for i in imports if i.target not in modules] == []


def test_nothing_imports_upward(imports):
    """Also within functions."""
    upward = []
    for statement in imports:
        source, target = room_of(statement.source), room_of(statement.target)
        if source in LAYER_OF and target in LAYER_OF:
            allowed = LAYER_OF[target] <= LAYER_OF[source] and (source, target) not in FORBIDDEN
            upward += [] if allowed else [str(statement)]
    assert upward == []


def test_core_imports_no_block(modules, imports):
    """Blocks register themselves: only the registration loads their package, and it names none of them."""
    found = [str(i) for i in imports if room_of(i.source) != 'blocks' and i.target.startswith('dinor1.blocks.')]
    others = [i for i in imports if room_of(i.source) not in ('blocks', 'registry')]
    found += [str(i) for i in others if i.target == 'dinor1.blocks']
    for module, tree in modules.items():
        if room_of(module) == 'blocks':
            continue
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ''
            # A name in a string is imported at run time. Docstrings, which have spaces, may refer to a block.
            allowed = ' ' in text or (module, text) == ('dinor1.utils.registration', 'dinor1.blocks')
            if text.startswith('dinor1.blocks') and not allowed:
                found.append(f'{module}:{node.lineno} names {text}')
    assert found == []


def test_blocks_work_without_the_detector(imports):
    """A block never imports the detector, and another block only where its paper builds on it."""
    found = []
    for statement in imports:
        if not statement.source.startswith('dinor1.blocks.'):
            continue
        room, block = room_of(statement.target), statement.source.split('.')[2]
        if room == 'blocks':
            other = statement.target.split('.')[2] if statement.target.count('.') > 1 else ''
            allowed = other in {block, *BLOCKS_OF_BLOCK.get(block, ())}
        else:
            allowed = room in BELOW_BLOCKS
        found += [] if allowed else [str(statement)]
    assert found == []


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, and nodes with an edge to themselves (Tarjan, 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            position = stack.index(node)
            component = stack[position:]
            del stack[position:]
            if len(component) > 1 or node in edges.get(node, ()):
                found.append(sorted(component))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def test_cycles_of_a_graph():
    assert cycles({'a': {'b'}, 'b': {'c'}, 'c': set()}) == []
    assert cycles({'a': {'b'}, 'b': {'c', 'd'}, 'c': {'a'}, 'd': {'d'}}) == [['d'], ['a', 'b', 'c']]


def test_no_import_cycles(imports):
    """Over the imports that run when a module is imported."""
    edges: dict[str, set[str]] = {}
    for statement in imports:
        if statement.at_import:
            edges.setdefault(statement.source, set()).add(statement.target)
    assert cycles(edges) == []


def test_constructors_have_a_moderate_number_of_arguments(modules):
    """More of them become a dataclass. ``self``, ``*args`` and ``**kwargs`` do not count."""
    lengths = {}
    for module, tree in modules.items():
        if room_of(module) not in ROOMS_WITH_SHORT_CONSTRUCTORS:
            continue
        for node in ast.walk(tree):
            for child in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(child, ast.FunctionDef) and child.name == '__init__':
                    arguments = child.args.posonlyargs + child.args.args + child.args.kwonlyargs
                    lengths[f'{module}.{node.name}'] = len(arguments) - 1
    longest = sorted(lengths.items(), key=lambda item: -item[1])
    print('\n'.join(f'{count:3} {name}' for name, count in longest[:5]))
    assert [item for item in longest if item[1] > MAX_ARGUMENTS] == []
