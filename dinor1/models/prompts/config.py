"""Settings of the prompts in a config."""

from dataclasses import dataclass, field
from typing import Any

from dinor1.utils.errors import InputError

_CHOICES = dict(
    text_prompts=('token', 'class'),
    prompt_sampling=('single_instance', 'class_prototype', 'per_image'),
)


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
        relation_distill: Settings of :class:`~dinor1.models.losses.RelationDistillation`, a loss that gives visual
            prompts the similarities of their classes' names. Without a language model, ``target`` is ``'label'``.
        prompt_sampling: How the prompts of a training batch are made from its boxes. ``single_instance``: one exemplar
            per class, as in DINO-R1; ``class_prototype``: the mean over the images of the batch, see
            :func:`~dinor1.models.prompts.prototype_weights`; ``per_image``: one to 16 exemplars of the image itself or
            of others, drawn for every image, see :func:`~dinor1.models.prompts.per_image_weights`.
        exclude_self: With ``class_prototype``, leave an image out of its own prompts where others show the class.
        prompt_dropout: Probability in [0, 1] that a training image is offered only some of the prompts of its batch,
            see :func:`~dinor1.models.prompts.drop_prompts`.
        refiner: Config of a module with ``forward(embeddings (K, C), names) -> (K, C)`` and ``refine(PromptSet) ->
            PromptSet``, such as ``CategoryGraphPrompts``. Training images must have class names (``return_classes``).

    Raises:
        InputError: the settings contradict each other.
    """

    encoder: dict[str, Any] = field(default_factory=lambda: dict(type='VisualPromptEncoder'))
    language_model: dict[str, Any] | None = None
    text_prompts: str = 'token'
    alignment: dict[str, Any] | None = None
    relation_distill: dict[str, Any] | None = None
    prompt_sampling: str = 'single_instance'
    exclude_self: bool = False
    prompt_dropout: float = 0.0
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
        if (self.relation_distill or {}).get('target') == 'text' and self.language_model is None:
            raise InputError(
                "model.prompts.relation_distill.target='text' needs model.prompts.language_model; set target='label' "
                'or give a language model'
            )
        # Check the values.
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ' or '.join(repr(choice) for choice in allowed)
                raise InputError(f'model.prompts.{name} must be {choices}, got {getattr(self, name)!r}')
        if not 0 <= self.prompt_dropout <= 1:
            raise InputError(f'model.prompts.prompt_dropout must be in [0, 1], got {self.prompt_dropout!r}')
        if self.exclude_self and self.prompt_sampling != 'class_prototype':
            raise InputError("model.prompts.exclude_self needs model.prompts.prompt_sampling='class_prototype'")
        if self.refiner is not None and (self.exclude_self or self.prompt_sampling == 'per_image'):
            raise InputError(
                'model.prompts.refiner refines the same prompts for all images of a batch, but '
                "prompt_sampling='per_image' and exclude_self=True make other prompts for every image; remove one"
            )
