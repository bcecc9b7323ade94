"""Compare with other implementations and published results: accuracy, number of operations, time and memory."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'Comparison': '.published',
        'PublishedResult': '.published',
        'VerifyOptions': '.published',
        'verify': '.published',
    },
)
