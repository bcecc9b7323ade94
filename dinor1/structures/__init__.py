"""What the network sees of a prompt (:class:`PromptSet`) and the same on disk (:class:`PromptBank`)."""

from .prompt_bank import PromptBank
from .prompt_set import PromptBatch, PromptSet

__all__ = ['PromptBank', 'PromptBatch', 'PromptSet']
