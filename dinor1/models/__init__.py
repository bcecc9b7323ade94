"""Models: detectors, heads, prompt encoders and losses, registered next to those of MMDetection.

Names are loaded on demand, so that importing this package does not load MMDetection.
"""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'AggregatingPromptEncoder': '.prompts',
        'ClassEmbeddings': '.prompts',
        'DINOGRQO': '.detectors',
        'DINOGRQOHead': '.heads',
        'DINOR1': '.detectors',
        'DINOR1Head': '.heads',
        'ExemplarGroupLoss': '.losses',
        'ExemplarPolicy': '.prompts',
        'GRQOLoss': '.losses',
        'GroupRelativeHead': '.heads',
        'MSDeformAttention': '.transformer',
        'OneToManyLoss': '.losses',
        'PromptRankingLoss': '.losses',
        'QualityAwareLoss': '.losses',
        'PromptedDecoder': '.transformer',
        'PromptedEncoder': '.transformer',
        'SelectiveEncoder': '.transformer',
        'LanguageAlignment': '.losses',
        'ReferenceModel': '.detectors',
        'DenormalFreeSwin': '.backbones',
        'MiniLM': '.prompts',
        'SimpleFeaturePyramid': '.backbones',
        'TimmBackbone': '.backbones',
        'VisualPromptEncoder': '.prompts',
        'WordHashModel': '.prompts',
    },
)
