"""The icon world: a generated detection data set with more than a thousand categories, drawn from icon packs."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'PRESETS': '.world',
        'SPLITS': '.splits',
        'IconLibrary': '.library',
        'generate': '.world',
        'load_library': '.library',
    },
)
