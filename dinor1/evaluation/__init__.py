"""Evaluation: protocols that give a detector its prompts, and metrics."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'AbsenceMetric': '.absence_metric',
        'CocoPromptMetric': '.coco_metric',
        'VisualInteractiveMetric': '.visual_interactive_metric',
        'PromptedMetric': '.prompt_protocols',
        'EvaluationPrompts': '.prompt_protocols',
        'ErrorMetric': '.error_metric',
        'Exemplar': '.visual_generic',
        'ExemplarWeighting': '.exemplar_weighting',
        'LVISFixedMetric': '.lvis_metric',
        'PromptProtocol': '.prompt_protocols',
        'QueryStatistics': '.queries',
        'RecognitionMetric': '.recognition',
        'SingleClass': '.single_class',
        'TextPrompts': '.prompt_protocols',
        'VisualGeneric': '.prompt_protocols',
        'VisualInteractive': '.prompt_protocols',
        'bernoulli_entropy': '.prompt_similarity',
        'bootstrap': '.bootstrap',
        'build_bank': '.visual_generic',
        'draw_exemplars': '.visual_generic',
        'draw_interactive': '.visual_interactive',
        'embed_exemplars': '.visual_generic',
        'iisr': '.prompt_similarity',
        'mean_and_std': '.seed_average',
        'query_statistics': '.queries',
    },
)
