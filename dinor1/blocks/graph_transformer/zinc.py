"""ZINC: constrained solubility of 12,000 molecules, read from the files of the benchmark.

Dwivedi et al., *Benchmarking Graph Neural Networks*, arXiv 2003.00982. The folder ``molecules`` of its archive holds
``train.pickle``, ``val.pickle`` and ``test.pickle`` with 250,000 molecules in all, and ``train.index``, ``val.index``
and ``test.index`` with the indices of the 12,000. PyTorch Geometric's ``ZINC(root, subset=True)`` leaves the same files
in ``root/raw``. A molecule is a dict: ``atom_type`` (N,), ``bond_type`` (N, N) with 0 = no bond, and
``logP_SA_cycle_normalized`` (1,).

The pickles are read by an unpickler that accepts only tensors, since a pickle can otherwise run any code.
"""

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError

from .batching import Graph, complete_edges
from .dataset import SPLITS
from .encoding import laplacian_positional_encoding

NUM_ATOM_TYPES, NUM_BOND_TYPES = 28, 4


@DATASETS.register_module()
class ZINC(Dataset):
    """Molecules as :class:`~dinor1.blocks.graph_transformer.Graph`, with ``y`` ``(1, 1)``, the target.

    Use ``collate_fn=dict(type='graph_collate')``.

    Args:
        data_root: Folder of the files named above.
        split: ``train``, ``val`` or ``test``.
        subset: The 10,000, 1,000 and 1,000 molecules of the index files; ``False``: all.
        pe_dim: Columns of the Laplacian code, 0 = none.
        full_graph: Give every atom an edge to every other, of type 0; the code is still computed from the bonds.
        seed: Not used: there is no augmentation. ``dinor1 train --seed`` gives it to every training set.

    Raises:
        InputError: a file is missing or damaged.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        subset: bool = True,
        pe_dim: int = 0,
        full_graph: bool = False,
        seed: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f'ZINC: split must be one of {", ".join(SPLITS)}; got {split!r}')
        self.metainfo: dict = {}
        # Read the molecules, and keep those of the index file.
        path = Path(data_root) / f'{split}.pickle'
        self.ann_file = str(path)
        molecules = read_molecules(path)
        if subset:
            numbers = _read_index(path.with_suffix('.index'), len(molecules))
            molecules = [molecules[number] for number in numbers]
        # Convert the molecules to graphs.
        self._graphs = []
        for number, molecule in enumerate(molecules):
            try:
                self._graphs.append(to_graph(molecule, pe_dim, full_graph))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise InputError(f'{path}: molecule {number} is damaged ({error!r}); download it again') from None

    def __len__(self) -> int:
        return len(self._graphs)

    def __getitem__(self, index: int) -> Graph:
        return self._graphs[index]


def to_graph(molecule: dict[str, torch.Tensor], pe_dim: int = 0, full_graph: bool = False) -> Graph:
    """Convert a molecule of the files to a graph."""
    bonds = molecule['bond_type']
    atoms = molecule['atom_type'].long().flatten()
    if bonds.shape != (len(atoms), len(atoms)):
        raise ValueError(f'{len(atoms)} atoms with a table of bonds {tuple(bonds.shape)}')
    # List the bonds as edges.
    edge_index = bonds.nonzero().T.contiguous()
    edge_attr = bonds[edge_index[0], edge_index[1]].long()
    code = laplacian_positional_encoding(edge_index, len(atoms), pe_dim) if pe_dim else None
    # Replace the bonds by all pairs of atoms.
    if full_graph:
        edge_index = complete_edges(len(atoms))
        edge_attr = torch.zeros(edge_index.shape[1], dtype=torch.long)
    target = molecule['logP_SA_cycle_normalized'].float().reshape(1, 1)
    return Graph(atoms, edge_index, target, code, edge_attr)


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors, dicts and lists; raises an error for anything else."""

    _KNOWN = {
        ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
        ('collections', 'OrderedDict'): collections.OrderedDict,
        # torch's _load_from_bytes would load without restrictions.
        ('torch.storage', '_load_from_bytes'): lambda data: torch.load(io.BytesIO(data), weights_only=True),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f'holds {module}.{name}, which is not a tensor')
        return self._KNOWN[module, name]


def read_molecules(path: Path) -> list[dict[str, torch.Tensor]]:
    """Read one of the pickles.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    try:
        with open(path, 'rb') as file:
            molecules = _TensorUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; see data/README.md for where ZINC goes') from None
    except Exception as error:
        # A damaged pickle can raise any exception.
        raise InputError(f'{path}: not one of the files of ZINC ({error}); download it again') from None
    if not isinstance(molecules, list):
        raise InputError(f'{path}: expected a list of molecules, found {type(molecules).__name__}')
    return molecules


def _read_index(path: Path, count: int) -> list[int]:
    try:
        numbers = [int(number) for number in path.read_text().strip().rstrip(',').split(',')]
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; put it beside the pickles, or use subset=False') from None
    except ValueError as error:
        raise InputError(f'{path}: expected numbers separated by commas ({error}); download it again') from None
    if not all(0 <= number < count for number in numbers):
        raise InputError(f'{path}: numbers outside of the {count} molecules of {path.with_suffix(".pickle").name}')
    return numbers
