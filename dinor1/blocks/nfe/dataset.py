"""Triples of a knowledge graph as an MMEngine data set."""

from torch import Tensor
from torch.utils.data import Dataset

from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError

from .triples import SPLITS, TripleDataset, find_file, with_reciprocals


@DATASETS.register_module()
class KnowledgeGraphDataset(Dataset):
    """One split of WN18RR, FB15k-237, or any graph in the same format, in both directions.

    Item 2i is triple i, and item 2i + 1 is its inverse with the reciprocal relation. All three files are read for each
    split, since vocabulary and ranking filter need them.

    Items are ``dict(triple=(3,) int64)`` and, in test mode, ``known=(k,) int64``: the tails that train, valid or test
    give to the same head and relation.

    Args:
        data_root: Folder of ``train.txt``, ``valid.txt`` and ``test.txt``, or of the same files with ``.gz``.
        split: ``train``, ``valid`` or ``test``.
        test_mode: Also return the known tails.
        num_entities: Entities of the model; checked against the files if given.
        num_relations: Relations of the model without reciprocals; checked too.
        seed: Not used: there is no augmentation. ``dinor1 train --seed`` gives it to every training set.

    Raises:
        InputError: see :meth:`TripleDataset.read`, or the number of entities or relations differs.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        test_mode: bool = False,
        num_entities: int | None = None,
        num_relations: int | None = None,
        seed: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f'split must be one of {", ".join(SPLITS)}; got {split!r}')
        self.ann_file = str(find_file(data_root, split))
        self.test_mode = test_mode
        graph = TripleDataset.read(data_root)
        for what, names, expected in (
            ('entities', graph.entities, num_entities),
            ('relations', graph.relations, num_relations),
        ):
            if expected is not None and len(names) != expected:
                raise InputError(f'{data_root}: {len(names)} {what}, but the config says num_{what} = {expected}')
        # MMEngine stores the names in checkpoints, so that every row of the tables can be identified.
        self.metainfo = dict(entities=graph.entities.names, relations=graph.relations.names)
        self.triples = with_reciprocals(getattr(graph, split), len(graph.relations))
        self.filter = graph.filter() if test_mode else None

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        triple = self.triples[index]
        if self.filter is None:
            return dict(triple=triple)
        _, known = self.filter.lookup(triple[:1], triple[1:2])
        return dict(triple=triple, known=known)
