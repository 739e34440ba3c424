"""Look inside VGG16, decide how many of its blocks to freeze, and check the decision.

Importing this package loads neither TensorFlow nor Keras: the public names, listed in `__init__.pyi`, are imported when
they are first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)
