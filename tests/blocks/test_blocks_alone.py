"""Every block is usable with torch alone: modules loaded by its import, and allowed imports."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import mmengine.registry
import pytest
from mmengine.registry import Registry

import dinor1.blocks
import dinor1.registry

BLOCKS = sorted(module.name for module in pkgutil.iter_modules(dinor1.blocks.__path__))
FRAMEWORKS = ('mmengine', 'mmcv', 'mmdet', 'transformers')
# Modules of this project that every block may import, besides its own folder.
EVERY_BLOCK = ('dinor1.utils',)
EXCEPTIONS = {
    'norm_conversion': ('dinor1.blocks.normalization',),
    'shiftquant': ('dinor1.ops',),
    'category_graph': (
        'dinor1.blocks.graph_transformer',
        'dinor1.blocks.nfe',
        'dinor1.annotations',
        'dinor1.structures',
    ),
}
# Additional modules for the registered parts of a block, which only `register.py` loads.
REGISTERED = ('dinor1.registry', 'dinor1.utils.model_converters', *FRAMEWORKS)


def folder(block: str) -> Path:
    return Path(dinor1.blocks.__path__[0]) / block


def imports(path: Path, block: str) -> set[str]:
    """Absolute names of the modules that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = f'dinor1.blocks.{block}' if node.level else ''
            source = '.'.join(filter(None, (package, node.module)))
            # `from . import module` and `from package import module` name modules as well.
            names |= {f'{source}.{alias.name}' for alias in node.names} if source == package else {source}
    return names


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f'{package}.') for package in packages)


def import_graph(block: str) -> dict[str, set[str]]:
    """Files of a block, each with the files of the block that it imports."""
    package = f'dinor1.blocks.{block}'
    files = {path.stem: path for path in folder(block).glob('*.py')}
    return {
        stem: {name.removeprefix(f'{package}.').partition('.')[0] for name in imports(path, block)} & set(files)
        for stem, path in files.items()
    }


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize('block', BLOCKS)
def test_block_import_loads_no_framework(block):
    """Runs in a separate process, since this one has loaded everything."""
    code = (
        f'import sys, dinor1.blocks.{block}\n'
        f'print(*sorted({{name.partition(".")[0] for name in sys.modules}} & set({FRAMEWORKS!r})))\n'
        'print(*sorted(name for name in sys.modules if name.startswith("dinor1")))\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    frameworks, modules = result.stdout.splitlines()
    assert not frameworks
    own = (f'dinor1.blocks.{block}', *EVERY_BLOCK, *EXCEPTIONS.get(block, ()))
    assert all(name in ('dinor1', 'dinor1.blocks') or is_within(name, own) for name in modules.split())


@pytest.mark.parametrize('block', BLOCKS)
def test_block_imports_own_folder_and_utils_only(block):
    allowed = (f'dinor1.blocks.{block}', *EVERY_BLOCK, *EXCEPTIONS.get(block, ()))
    usable_alone = reachable(import_graph(block), '__init__')
    for path in sorted(folder(block).glob('*.py')):
        known = allowed if path.stem in usable_alone else (*allowed, *REGISTERED)
        for name in imports(path, block):
            if is_within(name, ('dinor1', *FRAMEWORKS)):
                assert is_within(name, known), f'{path.name} imports {name}'


@pytest.mark.parametrize('block', BLOCKS)
def test_block_modules_are_loaded_by_init_or_register(block):
    graph = import_graph(block)
    loaded = reachable(graph, '__init__') | reachable(graph, 'register')
    assert set(graph) == loaded
    assert 'register' not in reachable(graph, '__init__')


@pytest.mark.parametrize('block', BLOCKS)
def test_block_has_no_import_cycles(block):
    graph = import_graph(block)
    # A module that imports names of its package is not a cycle unless the package loads the module.
    graph = {stem: names - {'__init__'} for stem, names in graph.items()}
    done: set[str] = set()
    while ready := {stem for stem in graph if stem not in done and graph[stem] <= done}:
        done |= ready
    assert done == set(graph), f'modules that import each other: {sorted(set(graph) - done)}'


def decorated(path: Path) -> set[str]:
    """Names of the classes and functions of a file that a decorator registers."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and any('register_module' in ast.unparse(decorator) for decorator in node.decorator_list)
    }


@pytest.mark.parametrize('block', BLOCKS)
def test_block_registers_itself(block):
    """All decorated names (or at least one) are in a registry of the project or in MMEngine's of the same name."""
    register = importlib.import_module(f'dinor1.blocks.{block}.register').register
    register()
    register()
    registries = [item for item in vars(dinor1.registry).values() if isinstance(item, Registry)]
    registries += [item for item in vars(mmengine.registry).values() if isinstance(item, Registry)]
    package = f'dinor1.blocks.{block}.'
    registered = {
        kind.__name__
        for registry in registries
        for kind in registry.module_dict.values()
        if kind.__module__.startswith(package)
    }
    assert registered
    assert set().union(*map(decorated, folder(block).glob('*.py'))) <= registered
