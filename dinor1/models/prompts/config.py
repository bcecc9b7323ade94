"""Settings of the prompts in a config."""

from dataclasses import dataclass, field
from typing import Any

from dinor1.utils.errors import InputError


@dataclass(frozen=True)
class PromptsConfig:
    """Settings of the prompt encoders.

    Attributes:
        encoder: Config of the encoder of boxes, which also receives the sizes of the transformer.
        language_model: Config of a frozen language model, such as MMDetection's ``BertModel`` or ``WordHashModel``;
            None: no text prompts.
        text_prompts: ``token``: one prompt per token, as in Grounding DINO; ``class``: one prompt per class name.
        alignment: Config of the loss between visual and text prompts, of type
            :class:`~dinor1.models.losses.LanguageAlignment` by default; needs a language model.
        refiner: Config of a module with ``forward(embeddings (K, C), names) -> (K, C)`` and ``refine(PromptSet) ->
            PromptSet``, such as ``CategoryGraphPrompts``. Training images must have class names (``return_classes``).

    Raises:
        InputError: the settings contradict each other.
    """

    encoder: dict[str, Any] = field(default_factory=lambda: dict(type='VisualPromptEncoder'))
    language_model: dict[str, Any] | None = None
    text_prompts: str = 'token'
    alignment: dict[str, Any] | None = None
    refiner: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # Check that every part names its type.
        for name in ('encoder', 'language_model', 'refiner'):
            part = getattr(self, name)
            if part is not None and 'type' not in part:
                raise InputError(f'model.prompts.{name} is a dict without a type, got {dict(part)!r}; give its type')
        # Check that the settings fit together.
        if self.alignment is not None and self.language_model is None:
            raise InputError(
                'model.prompts.alignment needs model.prompts.language_model; set alignment=None or give a language '
                'model'
            )
        if self.text_prompts not in ('token', 'class'):
            raise InputError(f"model.prompts.text_prompts must be 'token' or 'class', got {self.text_prompts!r}")
