"""Runner, loops and hooks that train and evaluate a model."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'BroadcastBuffersHook': '.hooks',
        'CPUBFloat16OptimWrapper': '.bfloat16_optim_wrapper',
        'GracefulStopHook': '.hooks',
        'HalfWeightsHook': '.hooks',
        'LossBalanceHook': '.hooks',
        'LossGradientHook': '.hooks',
        'PromptMemoryHook': '.hooks',
        'PromptModeHook': '.hooks',
        'PromptVisualizationHook': '.hooks',
        'PromptedTestLoop': '.loops',
        'PromptedValLoop': '.loops',
        'QueryRecorder': '.query_recorder',
        'RecognitionTestLoop': '.recognition_loop',
        'ReferenceModelHook': '.hooks',
        'ReproducibilityHook': '.hooks',
        'ResumableTrainLoop': '.train_loop',
        'Runner': '.runner',
        'TestOptions': '.testing',
        'evaluate': '.testing',
        'train': '.training',
    },
)
