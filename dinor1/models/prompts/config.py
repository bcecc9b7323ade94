"""Settings of the prompts in a config."""

from dataclasses import dataclass, field
from typing import Any

from dinor1.utils.errors import InputError

from .mode_schedule import prompt_mode

_CHOICES = dict(
    text_prompts=('token', 'class'),
    prompt_sampling=('single_instance', 'class_prototype', 'per_image'),
    prompt_gather=('device', 'world'),
)


@dataclass(frozen=True)
class PromptsConfig:
    """Settings of the prompt encoders.

    Attributes:
        encoder: Config of the encoder of boxes, which also receives the sizes of the transformer.
        class_embeddings: File with embeddings of class names, see
            :func:`~dinor1.models.prompts.save_class_embeddings`, as the text side instead of a language model.
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
        exclude_self: With ``class_prototype``, leave an image out of its own prompts if other images show the class.
        prompt_dropout: Probability in [0, 1] that a training image is offered only some of the prompts of its batch,
            see :func:`~dinor1.models.prompts.drop_prompts`.
        prompt_gather: ``device``: the prompts of a training batch are those of its classes; ``world``: those of the
            classes of all processes, averaged over the images of all; needs ``class_prototype``.
        prompt_mode_schedule: Which training iterations use boxes, and which class names, as prompts, see
            :func:`~dinor1.models.prompts.prompt_mode`; class names need a text side with one prompt per class.
        text_classes: Number of class names offered in a text iteration: those of the batch, and random others of the
            data set.
        exemplar_policy: Config of :class:`~dinor1.models.prompts.ExemplarPolicy`, which also receives the width; it is
            trained by ``loss_exemplar_group`` of the head. None: there is none.
        refiner: Config of a module with ``forward(embeddings (K, C), names) -> (K, C)`` and ``refine(PromptSet) ->
            PromptSet``, such as ``CategoryGraphPrompts``. Training images must have class names (``return_classes``).

    Raises:
        InputError: the settings contradict each other.
    """

    encoder: dict[str, Any] = field(default_factory=lambda: dict(type='VisualPromptEncoder'))
    class_embeddings: str | None = None
    language_model: dict[str, Any] | None = None
    text_prompts: str = 'token'
    alignment: dict[str, Any] | None = None
    relation_distill: dict[str, Any] | None = None
    prompt_sampling: str = 'single_instance'
    exclude_self: bool = False
    prompt_dropout: float = 0.0
    prompt_gather: str = 'device'
    prompt_mode_schedule: str = 'visual'
    text_classes: int = 80
    exemplar_policy: dict[str, Any] | None = None
    refiner: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # Check that every part names its type.
        for name in ('encoder', 'language_model', 'refiner', 'exemplar_policy'):
            part = getattr(self, name)
            if part is not None and 'type' not in part:
                raise InputError(f'model.prompts.{name} is a dict without a type, got {dict(part)!r}; give its type')
        # Check that the settings fit together.
        if self.class_embeddings is not None and self.language_model is not None:
            raise InputError(
                'model.prompts.class_embeddings takes the place of model.prompts.language_model; set one of them to '
                'None'
            )
        if self.alignment is not None and self.text_side is None:
            raise InputError(
                'model.prompts.alignment needs model.prompts.language_model; set alignment=None or give a language '
                'model, or a file of class embeddings (model.prompts.class_embeddings)'
            )
        if (self.relation_distill or {}).get('target') == 'text' and self.text_side is None:
            raise InputError(
                "model.prompts.relation_distill.target='text' needs model.prompts.language_model; set target='label' "
                'or give a language model'
            )
        self._check_text_iterations()
        # Check the values.
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ' or '.join(repr(choice) for choice in allowed)
                raise InputError(f'model.prompts.{name} must be {choices}, got {getattr(self, name)!r}')
        if not 0 <= self.prompt_dropout <= 1:
            raise InputError(f'model.prompts.prompt_dropout must be in [0, 1], got {self.prompt_dropout!r}')
        if self.exclude_self and self.prompt_sampling != 'class_prototype':
            raise InputError("model.prompts.exclude_self needs model.prompts.prompt_sampling='class_prototype'")
        if self.prompt_gather == 'world' and self.prompt_sampling != 'class_prototype':
            raise InputError(
                "model.prompts.prompt_gather='world' averages over the images of all processes and needs "
                "model.prompts.prompt_sampling='class_prototype'"
            )
        if self.refiner is not None and (self.exclude_self or self.prompt_sampling == 'per_image'):
            raise InputError(
                'model.prompts.refiner refines the same prompts for all images of a batch, but '
                "prompt_sampling='per_image' and exclude_self=True make other prompts for every image; remove one"
            )

    @property
    def text_side(self) -> dict[str, Any] | None:
        """Config of the language model, or of the table that replaces it; None: there is no text side."""
        if self.class_embeddings is not None:
            return dict(type='ClassEmbeddings', file=self.class_embeddings)
        return self.language_model

    @property
    def trains_text(self) -> bool:
        """Whether text iterations train the map from class embeddings to prompts."""
        return self.class_embeddings is not None and self.prompt_mode_schedule != 'visual'

    def _check_text_iterations(self) -> None:
        """Check the settings of text iterations.

        Raises:
            InputError: there are text iterations, but no text side with one prompt per class.
        """
        # Reject an unknown schedule.
        prompt_mode(self.prompt_mode_schedule, 0, 0)
        if self.text_classes < 1:
            raise InputError(f'model.prompts.text_classes must be at least 1, got {self.text_classes}')
        if self.prompt_mode_schedule == 'visual':
            return
        schedule = f'model.prompts.prompt_mode_schedule={self.prompt_mode_schedule!r}'
        if self.text_side is None:
            raise InputError(
                f'{schedule} has text iterations and needs model.prompts.class_embeddings or '
                "model.prompts.language_model; give one, or set prompt_mode_schedule='visual'"
            )
        if self.text_prompts != 'class':
            raise InputError(f"{schedule} needs one prompt per class name; set model.prompts.text_prompts='class'")
