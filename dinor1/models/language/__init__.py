"""Language models: where norms of transformers are studied without pictures."""

from .gpt2 import GPT2

__all__ = ['GPT2']
