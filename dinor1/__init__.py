"""dinor1: find objects by example. DINO-R1 and the training building blocks around it.

Importing this package is instant and changes nothing. The first use of a name below loads MMDetection::

    from dinor1 import DINOR1Inferencer

    inferencer = DINOR1Inferencer('config.py', 'checkpoint.pth')
    samples = inferencer(['a.jpg', 'b.jpg'], prompts=[('cats.jpg', [[10, 20, 90, 80]], 'cat')])
"""

from dinor1.utils.lazy import lazy_exports

__version__ = '0.2.0'

__getattr__, __dir__, _names = lazy_exports(
    __name__,
    {
        'DINOR1Inferencer': '.inference',
        'PromptBank': '.structures',
        'PromptSet': '.structures',
        'VisualPrompt': '.inference',
        'register_all': '.utils.registration',
    },
)
__all__ = ['__version__', *_names]
