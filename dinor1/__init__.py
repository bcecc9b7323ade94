"""dinor1: find objects by example. DINO-R1 and the training building blocks around it.

Importing this package is instant and changes nothing; :func:`register_all` makes every component known to
MMEngine's registries.
"""

__version__ = '0.1.0'


def register_all() -> None:
    """Register every component under the scope ``dinor1`` and make that the default scope.

    Idempotent. After it, any config of this project, or of MMDetection, can be built.
    """
    from dinor1.utils.registration import register_all as _register_all

    _register_all()
