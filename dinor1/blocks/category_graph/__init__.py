"""The category graph: relations between the classes of a detector, and prompts refined along its edges."""

from .annotations import Categories, cooccurrence_counts, read_categories
from .build import build_category_graph, positive_pmi, word_parents
from .completion import complete_category_graph, held_out_ranking
from .graph import RELATIONS, CategoryGraph
from .refiner import PromptGraphRefiner
from .wordnet import wordnet_hypernyms

__all__ = [
    'RELATIONS',
    'Categories',
    'CategoryGraph',
    'PromptGraphRefiner',
    'build_category_graph',
    'complete_category_graph',
    'cooccurrence_counts',
    'held_out_ranking',
    'positive_pmi',
    'read_categories',
    'word_parents',
    'wordnet_hypernyms',
]
