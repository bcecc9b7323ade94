"""Prompt embeddings on disk: computed once from reference images, reused for any number of target images."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinor1.utils.class_names import class_key, distinct_names
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, check_utf8

from .prompt_set import PromptSet

_KIND, _VERSION = 'dinor1.prompt_bank', 2


@dataclass(frozen=True)
class PromptBank:
    """Class embeddings, with the metadata that shows which model they fit.

    Attributes:
        embeddings: (K, C) float32 on the CPU; row ``i`` is the mean over the exemplars of ``names[i]``.
        names: K distinct class names, K >= 1.
        num_exemplars: K integers >= 1, the number of exemplars in each mean.
        fingerprint: Digest of the weights that produced the embeddings
            (:func:`dinor1.utils.fingerprint.fingerprint`).
        adaptations: How the embeddings were tuned, one dict per adaptation, see
            :meth:`dinor1.inference.DINOR1Inferencer.adapt`; empty: they are plain means.

    Raises:
        InputError: there is no class.
        ValueError: the fields differ in length, or a name is repeated.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    num_exemplars: tuple[int, ...]
    fingerprint: str
    adaptations: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError('the prompt bank has no class; give at least one exemplar')
        if not len(self.embeddings) == len(self.names) == len(self.num_exemplars) == len(set(self.names)):
            raise ValueError(
                f'expected as many embeddings, counts and distinct names as classes, got {len(self.embeddings)} '
                f'embeddings, {len(self.num_exemplars)} counts and {len(set(self.names))} distinct names for '
                f'{len(self.names)} classes'
            )

    def save(self, path: str | PathLike) -> None:
        """Write a ``.safetensors`` file: completely or not at all.

        Raises:
            InputError: the path is not valid UTF-8.
        """
        check_utf8(path)
        # Describe the bank in the metadata.
        metadata = dict(
            format=f'{_KIND}/{_VERSION}',
            names=json.dumps(self.names),
            num_exemplars=json.dumps(self.num_exemplars),
            fingerprint=self.fingerprint,
        )
        if self.adaptations:
            metadata['adaptations'] = json.dumps(self.adaptations)
        # Write the embeddings as float32.
        tensors = {'embeddings': self.embeddings.detach().to('cpu', torch.float32).contiguous()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | PathLike, fingerprint: str | None = None) -> 'PromptBank':
        """Read a bank.

        Args:
            path: File written by :meth:`save`.
            fingerprint: Fingerprint of the model that will use the bank; None skips the check.

        Raises:
            InputError: the file is missing, damaged or not a prompt bank, or the bank was made by another model.
        """
        # Read the file.
        try:
            with safe_open(path, framework='pt') as file:
                metadata = file.metadata() or {}
                kind, _, version = metadata.get('format', '').partition('/')
                embeddings = file.get_tensor('embeddings') if kind == _KIND else None
        except FileNotFoundError:
            raise InputError(f'{path}: no such prompt bank; make one with dinor1 bank') from None
        except (SafetensorError, OSError, UnicodeEncodeError) as error:
            raise InputError(f'{path}: not a readable safetensors file ({error})') from None
        # Check that the file is a prompt bank of the current format.
        if embeddings is None:
            raise InputError(f'{path}: not a prompt bank of dinor1; make one with dinor1 bank')
        if version != str(_VERSION):
            raise InputError(
                f'{path}: a prompt bank of format {version}, and this version of dinor1 reads format {_VERSION}; '
                'make it again with dinor1 bank'
            )
        # Check that its fields are complete.
        try:
            bank = cls(*_checked(embeddings, metadata))
        except (KeyError, ValueError) as error:
            reason = f'no {error}' if isinstance(error, KeyError) else error
            raise InputError(f'{path}: a damaged prompt bank ({reason}); make it again with dinor1 bank') from None
        # Check that it belongs to the model.
        if fingerprint is not None and bank.fingerprint != fingerprint:
            raise InputError(
                f'{path}: this prompt bank was made by another model (fingerprint {bank.fingerprint[:12]}, this '
                f'model has {fingerprint[:12]}); rebuild it with dinor1 bank and this checkpoint'
            )
        return bank

    @classmethod
    def merge(cls, banks: Sequence['PromptBank']) -> 'PromptBank':
        """Join banks of one model, at least one.

        The embedding of a class is the mean over its exemplars in all banks. Names that differ only in case or in
        surrounding blanks are one class; the first spelling is kept.

        Args:
            banks: At least one bank.
        """
        names = distinct_names(name for bank in banks for name in bank.names)
        # A single bank keeps bitwise identical embeddings.
        if len(banks) == 1 and len(names) == len(banks[0].names):
            return banks[0]
        # Sum the exemplars of each class over the banks, then divide by their number.
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = defaultdict(int)
        for bank in banks:
            for name, row, count in zip(bank.names, bank.embeddings, bank.num_exemplars, strict=True):
                key = class_key(name)
                sums[key] = sums.get(key, 0) + row * count
                counts[key] += count
        keys = [class_key(name) for name in names]
        means = torch.stack([sums[key] / counts[key] for key in keys])
        adaptations = tuple(adaptation for bank in banks for adaptation in bank.adaptations)
        return cls(means, tuple(names), tuple(counts[key] for key in keys), banks[0].fingerprint, adaptations)

    def prompt_set(self, names: Sequence[str] | None = None) -> PromptSet:
        """The embeddings as prompts.

        Args:
            names: Classes of the result, in this order, for example those of a data set. Classes missing from the
                bank are not offered; other classes of the bank are left out. A name that the bank has in another
                spelling only (case, surrounding blanks) means that class, unless ``names`` has several spellings of
                it. Default: the classes of the bank.

        Raises:
            InputError: the bank contains none of ``names``.
        """
        if names is None:
            return PromptSet.from_classes(self.embeddings, self.names)
        # Find the classes that the bank has.
        index = {name: i for i, name in enumerate(self.names)}
        by_key = {class_key(name): i for i, name in reversed(list(enumerate(self.names)))}
        spellings = Counter(map(class_key, names))
        for name in names:
            key = class_key(name)
            if name not in index and key in by_key and spellings[key] == 1:
                index[name] = by_key[key]
        mask = torch.tensor([name in index for name in names])
        if not bool(mask.any()):
            raise InputError(
                f'the prompt bank has none of the classes {", ".join(names)}; it has {", ".join(self.names)}'
            )
        # Select their embeddings; rows of missing classes are masked.
        rows = torch.tensor([index.get(name, 0) for name in names])
        return PromptSet.from_classes(self.embeddings[rows], names, mask=mask)


def _checked(
    embeddings: Tensor, metadata: dict[str, str]
) -> tuple[Tensor, tuple[str, ...], tuple[int, ...], str, tuple[dict[str, Any], ...]]:
    """Convert and check the fields read from a file.

    Raises:
        KeyError: a field is missing.
        ValueError: a field has the wrong type or shape, or the embeddings are not finite.
    """
    # Check the names and the numbers of exemplars.
    names, counts = json.loads(metadata['names']), json.loads(metadata['num_exemplars'])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError('names must be a list of non-empty strings')
    if not isinstance(counts, list) or not all(type(count) is int and count >= 1 for count in counts):
        raise ValueError('num_exemplars must be a list of integers of at least 1')
    # Check the embeddings.
    if embeddings.dim() != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f'embeddings must be a matrix of floats, got shape {tuple(embeddings.shape)} of {embeddings.dtype}'
        )
    if not embeddings.isfinite().all():
        raise ValueError('embeddings contain values that are not finite')
    # Check the records of adaptations.
    adaptations = json.loads(metadata.get('adaptations', '[]'))
    if not isinstance(adaptations, list) or not all(isinstance(item, dict) for item in adaptations):
        raise ValueError('adaptations must be a list of objects')
    return embeddings.float(), tuple(names), tuple(counts), metadata['fingerprint'], tuple(adaptations)
