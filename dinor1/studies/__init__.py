"""Studies: run a grid of arms and seeds, and make tables and figures from the results."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'collect_runs': '.collect',
        'insert': '.study',
        'load_study': '.study',
        'run_all': '.run',
        'select': '.run',
        'table': '.study',
    },
)
