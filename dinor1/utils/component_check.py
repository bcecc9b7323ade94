"""Check the components that a config describes before any of them is built.

Argument names and simple types are compared with the constructors' signatures. Components of other libraries are
checked only where MMEngine's Runner builds them without changing their arguments.
"""

import collections.abc
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from mmengine.registry import Registry

from dinor1 import registry as _registry

# Key of a component that MMEngine builds with unchanged arguments -> its registry, and the keys that MMEngine reads.
_RUNNER_PARTS: dict[tuple[str, ...], tuple[Registry, tuple[str, ...]]] = {
    **{(key,): (_registry.LOOPS, ()) for key in ('train_cfg', 'val_cfg', 'test_cfg')},
    ('default_hooks', '*'): (_registry.HOOKS, ('priority',)),
    ('custom_hooks', '*'): (_registry.HOOKS, ('priority',)),
    ('optim_wrapper', 'optimizer'): (_registry.OPTIMIZERS, ()),
}
# Keys that MMEngine reads before it builds a component.
_READ_BEFORE = ('type', '_scope_')
_REGISTRIES = tuple(value for value in vars(_registry).values() if isinstance(value, Registry))


@dataclass(frozen=True)
class Mistake:
    """A mistake in a config.

    Attributes:
        key: Key in the config, such as ``test_cfg.prompts.seed``.
        component: Name of the class that does not accept the argument.
        argument: Name of the argument.
        text: Description of the mistake.
    """

    key: str
    component: str
    argument: str
    text: str


def mistakes(node: Any, place: tuple[str, ...] = ()) -> Iterator[Mistake]:
    """Yield the arguments that a component does not accept.

    Args:
        node: A config, or a part of it.
        place: Keys that lead from the config to ``node``.
    """
    # Check the items of a list.
    if isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from mistakes(value, (*place, str(number)))
        return
    if not isinstance(node, Mapping):
        return
    # Check the arguments of a component.
    known: Mapping[str, Any] | None = None
    kind = node.get('type')
    if isinstance(kind, str | type):
        constructor, read_before = _component(kind, place)
        if constructor is not None:
            known = arguments(constructor)
            given = {name: value for name, value in node.items() if name not in (*_READ_BEFORE, *read_before)}
            name = kind if isinstance(kind, str) else kind.__name__
            yield from _wrong_arguments(name, known, given, place)
    # Check the values, which may be settings or components themselves.
    for name, value in node.items():
        settings = _settings_class(known.get(name)) if known is not None and isinstance(value, Mapping) else None
        if settings is not None and 'type' not in value:
            yield from _wrong_arguments(settings.__name__, arguments(settings), value, (*place, name))
        yield from mistakes(value, (*place, name))


def arguments(constructor: Any) -> dict[str, Any]:
    """Names of a constructor's arguments -> their annotations, or ``Any`` without one.

    If the constructor has ``**kwargs``, the arguments of its base classes are included. A parameter ``**NAME`` with any
    other name accepts all arguments; it is included under the name ``**NAME``.
    """
    found: dict[str, Any] = {}
    for function in _initialisers(constructor):
        hints = _hints(function)
        for parameter in inspect.signature(function).parameters.values():
            # The base class gets kwargs; variable arguments with another name accept everything.
            if parameter.kind is parameter.VAR_KEYWORD and parameter.name != 'kwargs':
                found[f'**{parameter.name}'] = Any
            elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, hints.get(parameter.name, Any))
    found.pop('self', None)
    return found


def _component(kind: str | type, place: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Find the class or function of ``type=kind``.

    Returns:
        The class or function, or None if its arguments cannot be checked; and the keys that are not its arguments.
    """
    # Look up a component that MMEngine's Runner builds.
    pattern = place if place in _RUNNER_PARTS else (*place[:-1], '*')
    if pattern in _RUNNER_PARTS:
        registry, read_before = _RUNNER_PARTS[pattern]
        found = lookup(registry, kind) if isinstance(kind, str) else kind
        return (None if _passes_on_unknown(found) else found), read_before
    if isinstance(kind, type):
        return (kind if _is_ours(kind) else None), ()
    # Look up a name. It may be in several registries: accept it only if it means a single class of ours.
    candidates = {registry.module_dict.get(kind) for registry in _REGISTRIES} - {None}
    ours = [candidate for candidate in candidates if _is_ours(candidate)]
    return (ours[0] if len(ours) == 1 == len(candidates) else None), ()


def lookup(registry: Registry, name: str) -> Any:
    """The component that a registry, or a parent of it, has under a name; None if there is none.

    MMEngine imports a name with dots as a path, which raises several kinds of errors if there is no such module.
    """
    try:
        return registry.get(name)
    except (RuntimeError, ImportError, ValueError, AttributeError, KeyError):
        return None


def _is_ours(component: Any) -> bool:
    return str(getattr(component, '__module__', '')).startswith('dinor1.')


def _passes_on_unknown(component: Any) -> bool:
    """Whether a component belongs to another library and has ``**kwargs``, so that its arguments cannot be checked."""
    if component is None or _is_ours(component):
        return False
    parameters = inspect.signature(component).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _initialisers(constructor: Any) -> Iterator[Any]:
    """Yield ``__init__`` of a class and of the base classes that receive its ``**kwargs``; or a function itself."""
    if not isinstance(constructor, type):
        yield constructor
        return
    for base in constructor.__mro__:
        initialiser = vars(base).get('__init__')
        if initialiser is not None and base is not object:
            yield initialiser
            # A base class gets arguments only through kwargs.
            passed_on = inspect.signature(initialiser).parameters.get('kwargs')
            if passed_on is None or passed_on.kind is not passed_on.VAR_KEYWORD:
                return


@functools.cache
def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that are imported for type checkers only
        return {}


def _wrong_arguments(
    component: str, known: Mapping[str, Any], given: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[Mistake]:
    """Yield the arguments with a wrong name or type."""
    takes_any = any(name.startswith('**') for name in known)
    for name, value in given.items():
        key = '.'.join((*place, name))
        if name not in known:
            if takes_any:
                continue
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            takes = f'it takes {", ".join(known)}' if known else 'it takes none'
            hint = f'did you mean {close[0]!r}?' if close else takes
            yield Mistake(key, component, name, f'{component} takes no argument {name!r}; {hint}')
        elif not accepts(known[name], value):
            yield Mistake(key, component, name, f'{component} needs {_described(known[name])} here, got {value!r}')


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a value of a config fits an annotation; annotations that cannot be checked accept everything."""
    # Check unions, literals and None.
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(accepts(option, value) for option in options)
    if origin is Literal:
        return value in options
    if annotation is None or annotation is type(None):
        return value is None
    # Check numbers and strings.
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    # Check containers.
    container = origin or annotation
    if container in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if container in (list, tuple, collections.abc.Sequence):
        if not isinstance(value, list | tuple):
            return False
        if container is tuple and options and options[-1] is not Ellipsis:
            return len(value) == len(options) and all(map(accepts, options, value))
        return not options or all(accepts(options[0], item) for item in value)
    # Check classes of ours; classes of other libraries may convert a plain value.
    if isinstance(annotation, type) and _is_ours(annotation):
        return isinstance(value, annotation)
    return True


def _described(annotation: Any) -> str:
    """Describe an annotation in words."""
    # Describe alternatives and simple types.
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return ' or '.join(dict.fromkeys(_described(option) for option in options))
    if origin is Literal:
        return ' or '.join(map(repr, options))
    words = {int: 'an integer', float: 'a number', bool: 'True or False', str: 'a string', type(None): 'None'}
    if annotation in words:
        return words[annotation]
    # Describe containers, and use the name of any other type.
    container = origin or annotation
    if container in (dict, collections.abc.Mapping):
        return 'a dict'
    if container is tuple and options and options[-1] is not Ellipsis:
        return f'a list of {len(options)}'
    if container in (list, tuple, collections.abc.Sequence):
        return 'a list'
    return f'a {getattr(annotation, "__name__", annotation)}'


def _settings_class(annotation: Any) -> type | None:
    """Return the only class of ours in an annotation, to which a dict of settings is converted; None without one."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    ours = [option for option in options if isinstance(option, type) and _is_ours(option)]
    return ours[0] if len(ours) == 1 and not inspect.isabstract(ours[0]) else None
