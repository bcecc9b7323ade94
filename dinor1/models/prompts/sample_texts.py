"""Prompts from the class names that MMDetection's inferencers attach to the samples."""

from collections.abc import Callable, Sequence

from mmdet.structures import DetDataSample

from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError

from .text import caption_names


def sample_text_prompts(
    samples: Sequence[DetDataSample], encode: Callable[[Sequence[str]], PromptSet], detector: str
) -> list[PromptSet]:
    """Prompts from ``text`` of every sample: class names, or a caption that contains them.

    Args:
        samples: The samples.
        encode: Function that encodes class names; it is called once for equal lists of names.
        detector: Name of the detector, for error messages.

    Returns:
        One prompt set per sample.

    Raises:
        InputError: a sample has no text, or ``encode`` takes no text prompts.
    """
    texts = [sample.get('text') for sample in samples]
    names = [caption_names(text) if isinstance(text, str) else list(text or ()) for text in texts]
    if not all(names):
        raise InputError(
            f'{detector}: no prompts; evaluate with val_cfg and test_cfg of type PromptedValLoop and '
            'PromptedTestLoop, which give every image its prompts; for the inferencers of MMDetection, give class '
            "names as text, and add 'text' to meta_keys of PackDetInputs in the test pipeline"
        )
    sets = {text: encode(text) for text in dict.fromkeys(map(tuple, names))}
    return [sets[tuple(text)] for text in names]
