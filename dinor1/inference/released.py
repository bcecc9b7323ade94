"""The released detector: weights and config that come with dinor1."""

from mmengine.config import Config

from dinor1.models.prompts import minilm_folder
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.released_weights import config_of, released_file

# Parts that only text prompts need.
TEXT_SIDE = ('language_model.', 'text_feat_map.', 'alignment.')


def released_detector(name: str) -> tuple[Config, str, tuple[str, ...]]:
    """Config and file of released weights.

    Text prompts need MiniLM. If it is not installed, the detector accepts only boxes.

    Args:
        name: Name or address, such as ``lite`` or ``dinor1://lite``.

    Returns:
        The config, the file, and the prefixes of the weights that the detector does not use.

    Raises:
        InputError: there are no weights of this name.
    """
    path = released_file(name)
    cfg = load_config(config_of(path))
    # Leave out the text side if its weights are not installed.
    language_model = cfg.model.get('prompts', {}).get('language_model') or {}
    if language_model.get('type') == 'MiniLM' and 'folder' not in language_model:
        try:
            minilm_folder()
        except InputError:
            cfg.model.prompts.update(language_model=None, alignment=None, text_prompts='token')
            return cfg, str(path), TEXT_SIDE
    return cfg, str(path), ()
