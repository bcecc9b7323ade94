"""A local web application that labels a folder of images by example; needs the extra ``dinor1[annotate]``."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'ExemplarDetector': '.detection',
        'JobRunner': '.jobs',
        'Project': '.project',
        'create_app': '.server',
        'export_project': '.transfer',
        'import_annotations': '.transfer',
        'serve': '.launch',
    },
)
