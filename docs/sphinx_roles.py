"""Extensions of the reader of the source for the API reference: lazy exports, and the roles in docstrings.

An extension of griffe, which mkdocstrings reads the package with; see ``mkdocs.yml``.
"""

import ast
import contextlib
import html
import re
from typing import Any

import griffe

_ROLE = re.compile(r':(?:class|meth|func|attr|mod|data|exc|obj):`(~?)([^`]+)`')
_LITERAL_BLOCK = re.compile(r'::$', re.MULTILINE)


class SphinxRoles(griffe.Extension):
    """Turns ``:class:`X``` into a link where the reference has X, and into code elsewhere."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Add the lazy exports of all modules, then rewrite all docstrings; called by griffe."""
        modules = [pkg]
        for module in modules:
            modules += [member for member in module.modules.values() if not member.is_alias]
            for name, path in _lazy_exports(module):
                module.set_member(name, griffe.Alias(name, path, parent=module))
        objects: list[griffe.Object] = [pkg]
        for obj in objects:
            objects += [member for member in obj.members.values() if not member.is_alias]
            if obj.docstring:
                text = _LITERAL_BLOCK.sub(':', obj.docstring.value)
                obj.docstring.value = _ROLE.sub(lambda match, obj=obj: _link(match, obj, pkg), text)


def _lazy_exports(module: griffe.Module) -> list[tuple[str, str]]:
    """Names that ``lazy_exports(__name__, {name: '.module'})`` gives a module, and the paths that they stand for."""
    if not module.is_init_module:
        return []
    calls = [node for node in ast.walk(ast.parse(module.source)) if isinstance(node, ast.Call)]
    tables = [call.args[1] for call in calls if isinstance(call.func, ast.Name) and call.func.id == 'lazy_exports']
    return [
        (name, f'{module.path}{place}.{name}')
        for table in tables
        for name, place in ast.literal_eval(table).items()
        if name not in module.members
    ]


def _link(match: re.Match, obj: griffe.Object, pkg: griffe.Module) -> str:
    """A role in Markdown; the link is optional, as not every object has an entry."""
    short, target = match.groups()
    title = html.escape(target.rsplit('.', 1)[-1] if short else target.lstrip('.'))
    path = _absolute_path(target, obj)
    if path is None or path.split('.')[0] != pkg.name:
        return f'<code>{title}</code>'
    with contextlib.suppress(KeyError, griffe.GriffeError):
        path = pkg[path.split('.')[1:]].canonical_path
    return f'<autoref optional identifier="{html.escape(path)}"><code>{title}</code></autoref>'


def _absolute_path(target: str, obj: griffe.Object) -> str | None:
    """The path of a name in the scope of an object; None if it is unknown there."""
    if target.startswith('.'):
        package = obj.module if obj.module.is_init_module else obj.module.parent
        return f'{package.path}{target}' if package else None
    first, *rest = target.split('.')
    if first in ('dinor1', 'torch'):
        return target
    try:
        return '.'.join([obj.resolve(first), *rest])
    except griffe.NameResolutionError:
        return None
