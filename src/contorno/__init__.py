"""contorno: two folders in, images and masks; out comes a U-Net that draws the mask of any image.

The public names are loaded when first used, so that `import contorno` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contorno.api import Model, bench, check, convert, evaluate, load, predict, train
    from contorno.models import UNet

__version__ = "0.1.0"
__all__ = [
    "Model",
    "UNet",
    "__version__",
    "bench",
    "check",
    "convert",
    "evaluate",
    "load",
    "predict",
    "train",
]

_HOMES = {
    "Model": "contorno.api",
    "bench": "contorno.api",
    "check": "contorno.api",
    "convert": "contorno.api",
    "evaluate": "contorno.api",
    "load": "contorno.api",
    "predict": "contorno.api",
    "train": "contorno.api",
    "UNet": "contorno.models",
}


class _Package(ModuleType):
    """Functions and modules share names here (`contorno.train`); the function wins."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'contorno' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Package
