"""Class embeddings from a file: a text side without a language model at run time."""

import json
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from mmengine.model import BaseModule
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, check_output, read_json, read_text

from .text import why_unreadable

_FORMAT = 'dinor1.class_embeddings/1'
_MAKE = 'make one with tools/model_converters/class_embeddings.py'


def save_class_embeddings(path: str | PathLike, names: Sequence[str], embeddings: Tensor) -> None:
    """Write a ``.safetensors`` file of class embeddings: completely or not at all.

    Args:
        path: File to write.
        names: K distinct class names.
        embeddings: (K, E) one row per name.

    Raises:
        InputError: there is no name, or a name occurs twice.
        ValueError: the number of rows differs from the number of names.
    """
    # Check the arguments.
    if not names:
        raise InputError(f'{path}: no class name to write; give at least one')
    if repeated := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise InputError(f'{path}: the class name {repeated[0]!r} occurs twice; give every name once')
    if embeddings.dim() != 2 or len(embeddings) != len(names):
        raise ValueError(f'expected {len(names)} rows of embeddings, got shape {tuple(embeddings.shape)}')
    # Write the file.
    tensors = {'embeddings': embeddings.detach().to('cpu', torch.float32).contiguous()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=dict(format=_FORMAT, names=json.dumps(list(names))))


def read_class_embeddings(path: str | PathLike) -> tuple[list[str], Tensor]:
    """Read a file written by :func:`save_class_embeddings`.

    Returns:
        K names, and their embeddings (K, E) in float32.

    Raises:
        InputError: the file is missing, damaged, or not of this kind.
    """
    # Read the file.
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            embeddings = file.get_tensor('embeddings') if metadata.get('format') == _FORMAT else None
    except FileNotFoundError:
        raise InputError(f'{path}: no such file of class embeddings; {_MAKE}') from None
    except (SafetensorError, OSError) as error:
        raise InputError(f'{path}: not a readable safetensors file ({error}); {_MAKE}') from None
    if embeddings is None:
        raise InputError(f'{path}: not a file of class embeddings of dinor1; {_MAKE}')
    # Check that its fields fit together.
    try:
        names = json.loads(metadata.get('names', ''))
    except ValueError:
        names = None
    if not isinstance(names, list) or embeddings.dim() != 2 or len(names) != len(embeddings) or not names:
        raise InputError(f'{path}: a damaged file of class embeddings, names and rows differ; {_MAKE}')
    if not embeddings.isfinite().all():
        raise InputError(f'{path}: class embeddings that are not finite; {_MAKE}')
    return names, embeddings.float()


def write_class_embeddings(sources: Sequence[str | PathLike], language_model: str, out: str | PathLike) -> int:
    """Embed the class names of several files, and write them.

    Args:
        sources: Annotation files in COCO format (``.json``), or text files with a class name per line. A name may occur
            in several of them.
        language_model: ``MiniLM`` or ``WordHashModel``, or another registered model with ``class_embeddings(names)``.
        out: File to write, ending in ``.safetensors``.

    Returns:
        Number of names.

    Raises:
        InputError: a file cannot be read, a name cannot be embedded, or ``out`` has another ending.
    """
    # Check the name of the output before the slow part.
    if not str(out).endswith('.safetensors'):
        raise InputError(f'{out}: expected a file name that ends in .safetensors')
    check_output(str(out), '--out')
    # Read the names.
    names = list(dict.fromkeys(name for source in sources for name in _names_in(source)))
    for name in names:
        if reason := why_unreadable(name):
            raise InputError(f'class embeddings: the class {name!r} {reason}; rename it')
    # Embed them one by one: rounding depends on the batch.
    model = MODELS.build(dict(type=language_model)).eval()
    with torch.no_grad():
        rows = [model.class_embeddings([name]) for name in names]
    save_class_embeddings(out, names, torch.cat(rows) if rows else torch.zeros(0, 1))
    return len(names)


def _names_in(source: str | PathLike) -> list[str]:
    """Class names in an annotation file or a text file."""
    # A text file has one name per line.
    if not str(source).endswith('.json'):
        try:
            lines = read_text(source).splitlines()
        except UnicodeDecodeError:
            raise InputError(f'{source}: not UTF-8; give text with a class name per line') from None
        return [line.strip() for line in lines if line.strip()]
    # An annotation file has categories.
    content = read_json(source)
    categories = content.get('categories') if isinstance(content, dict) else None
    if not isinstance(categories, list) or not all(
        isinstance(category, dict) and isinstance(category.get('name'), str) for category in categories
    ):
        raise InputError(f'{source}: has no list of categories with names; give annotations in COCO format')
    return [category['name'] for category in categories]


@MODELS.register_module()
class ClassEmbeddings(BaseModule):
    """A table of class embeddings that replaces a language model; it has only the names of its file.

    Args:
        file: File written by :func:`save_class_embeddings`.

    Attributes:
        language_dim: Width E of the embeddings.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, file: str, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.file = file
        names, embeddings = read_class_embeddings(file)
        self.language_dim = embeddings.shape[1]
        self._index = {name: i for i, name in enumerate(names)}
        # Only the file has the embeddings; checkpoints do not contain them.
        self.register_buffer('embeddings', embeddings, persistent=False)

    def why_unknown(self, name: str) -> str | None:
        """Why a name has no embedding, as the predicate of a sentence about the name; None if it has one."""
        if name in self._index:
            return None
        return f'has no embedding in {self.file}'

    def class_embeddings(self, names: Sequence[str]) -> Tensor:
        """(K, E) embeddings of K class names.

        Raises:
            InputError: a name is not in the file.
        """
        for name in names:
            if reason := self.why_unknown(name):
                raise InputError(f'text prompts: the class {name!r} {reason}; add it to the file')
        table: Any = self.embeddings
        return table[[self._index[name] for name in names]]
