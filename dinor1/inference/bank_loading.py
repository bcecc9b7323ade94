"""Loading of prompt banks, with the check that they belong to a detector."""

from os import PathLike

from dinor1.structures import PromptBank
from dinor1.utils.errors import InputError


def load_bank(
    bank: str | PathLike | PromptBank, fingerprint: str, head_digest: str | None, embed_dims: int
) -> PromptBank:
    """Load a bank, and check that it belongs to a detector.

    Args:
        bank: A bank, or its file.
        fingerprint: Fingerprint of the detector.
        head_digest: Digest of the tuned head that the detector has; None: its own head.
        embed_dims: Width C of the detector's prompts.

    Raises:
        InputError: the bank belongs to another detector, or cannot be read.
    """
    # Load the bank, and compare fingerprints.
    if not isinstance(bank, str | PathLike | PromptBank):
        raise InputError(f'bank: expected a prompt bank or its file, got {bank!r}')
    where = 'this prompt bank' if isinstance(bank, PromptBank) else f'{bank}: this prompt bank'
    if not isinstance(bank, PromptBank):
        bank = PromptBank.load(bank, fingerprint)
    if bank.fingerprint != fingerprint:
        raise InputError(f'{where} was made by another model; rebuild it with this checkpoint')
    # Compare the heads.
    if any(item.get('head') not in (None, head_digest) for item in bank.adaptations):
        raise InputError(f'{where} was tuned together with a head; load this head first: --head, or load_head()')
    # Compare the width of the embeddings.
    width = bank.embeddings.shape[-1]
    if width != embed_dims:
        raise InputError(f'{where} has embeddings of width {width}, not {embed_dims}; rebuild it')
    return bank
