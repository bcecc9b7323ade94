"""Hypernyms of synsets, from NLTK's WordNet data on disk. Nothing is downloaded."""

from collections.abc import Iterable

from dinor1.utils.errors import InputError


def wordnet_hypernyms(synsets: Iterable[str | None]) -> dict[str, list[str]]:
    """Direct hypernyms of the given synsets, and of everything above them.

    Args:
        synsets: WordNet 3.0 names, such as ``dog.n.01``. ``None``, and names that WordNet does not have (LVIS invented
            a few), have no hypernyms.

    Returns:
        Names of the direct hypernyms of each synset, including instance hypernyms.

    Raises:
        InputError: NLTK or its WordNet data is not installed.
    """
    hint = 'pip install nltk, and put its WordNet data (python -m nltk.downloader wordnet) on its search path'
    # Load WordNet, or say how to install it.
    try:
        from nltk.corpus import wordnet
        from nltk.corpus.reader.wordnet import WordNetError
    except ImportError:
        raise InputError(f'WordNet needs NLTK, which is not installed; {hint}') from None
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):
        raise InputError(f'NLTK is installed, but the data of WordNet is missing or incomplete; {hint}') from None
    # Walk up from every synset.
    above: dict[str, list[str]] = {}
    waiting = [name for name in synsets if name]
    while waiting:
        name = waiting.pop()
        if name in above:
            continue
        try:
            synset = wordnet.synset(name)
        except (WordNetError, ValueError):
            above[name] = []
            continue
        above[name] = [h.name() for h in (*synset.hypernyms(), *synset.instance_hypernyms())]
        waiting += above[name]
    return above
