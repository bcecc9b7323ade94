"""Every block is usable alone with torch: what importing it loads, and what its modules may import."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import dinor1.blocks

BLOCKS = sorted(module.name for module in pkgutil.iter_modules(dinor1.blocks.__path__))
FRAMEWORKS = ('mmengine', 'mmcv', 'mmdet', 'transformers')
# What a block may import of this project besides its own folder.
EVERY_BLOCK = ('dinor1.utils',)
EXCEPTIONS = {
    'norm_conversion': ('dinor1.blocks.normalization',),
    'category_graph': (
        'dinor1.blocks.graph_transformer',
        'dinor1.blocks.nfe',
        'dinor1.annotations',
        'dinor1.structures',
    ),
}
# Modules that a block's `register.py` imports, and what they may import in addition.
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


def registered(block: str) -> set[str]:
    """Names of the files of a block that its ``register.py`` loads."""
    package = f'dinor1.blocks.{block}'
    files = {path.stem for path in folder(block).glob('*.py')}
    names = {name.removeprefix(f'{package}.') for name in imports(folder(block) / 'register.py', block)}
    return (names & files) | {'register'}


@pytest.mark.parametrize('block', BLOCKS)
def test_importing_a_block_loads_no_framework(block):
    """In a process of its own: this one has loaded everything."""
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
def test_a_block_imports_its_own_folder_and_utils(block):
    allowed = (f'dinor1.blocks.{block}', *EVERY_BLOCK, *EXCEPTIONS.get(block, ()))
    parts = registered(block)
    for path in sorted(folder(block).rglob('*.py')):
        known = (*allowed, *REGISTERED) if path.stem in parts else allowed
        for name in imports(path, block):
            if is_within(name, ('dinor1', *FRAMEWORKS)):
                assert is_within(name, known), f'{path.name} imports {name}'


@pytest.mark.parametrize('block', BLOCKS)
def test_registered_parts_are_loaded_by_the_register_module_alone(block):
    parts = registered(block)
    needs_framework = {
        path.stem
        for path in folder(block).glob('*.py')
        if any(is_within(name, REGISTERED) for name in imports(path, block))
    }
    assert needs_framework <= parts
    package = f'dinor1.blocks.{block}'
    for path in folder(block).glob('*.py'):
        loaded = {name.removeprefix(f'{package}.') for name in imports(path, block)}
        if path.stem not in parts:
            assert not loaded & needs_framework, f'{path.name} imports a registered part'


@pytest.mark.parametrize('block', BLOCKS)
def test_imports_within_a_block_have_no_circle(block):
    package = f'dinor1.blocks.{block}'
    files = {path.stem: path for path in folder(block).glob('*.py') if path.stem != '__init__'}
    graph = {
        stem: {name.removeprefix(f'{package}.').partition('.')[0] for name in imports(path, block)} & set(files)
        for stem, path in files.items()
    }
    done: set[str] = set()
    while ready := {stem for stem in graph if stem not in done and graph[stem] <= done}:
        done |= ready
    assert done == set(graph), f'modules that import each other: {sorted(set(graph) - done)}'


@pytest.mark.parametrize('block', BLOCKS)
def test_every_block_registers_itself(block):
    importlib.import_module(f'dinor1.blocks.{block}.register').register()
