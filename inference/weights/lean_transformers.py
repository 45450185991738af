"""Imports transformers without the list of all its models' classes, until one of them is needed.

`import transformers` reads 1,600 files to find out which class is in which: 0.4 s of every start. A GGUF file whose
blocks are computed as they are needs none of the models, only tokenizers and a plain configuration. So a stand-in takes
the package's name: its modules are imported as usual, the few names below come from their modules, and any other name
imports the whole package.
"""

import importlib.metadata
import importlib.util
import sys
import threading
from importlib.abc import Loader
from types import ModuleType
from typing import Any

PACKAGE = "transformers"
MODULES = {
    "AddedToken": "tokenization_utils_base",
    "PreTrainedConfig": "configuration_utils",
    "PreTrainedTokenizerBase": "tokenization_utils_base",
    "PreTrainedTokenizerFast": "tokenization_utils_tokenizers",
}
"""The names that are needed without a model, and the modules that define them."""


def defer_model_classes() -> None:
    """From now on, import transformers' list of classes only when it is asked for one that is not named above."""
    spec = None if PACKAGE in sys.modules else importlib.util.find_spec(PACKAGE)
    if spec is None or spec.loader is None:
        return
    package = importlib.util.module_from_spec(spec)
    package.__dict__["__version__"] = importlib.metadata.version(PACKAGE)  # its modules ask for it
    package.__dict__["__getattr__"] = _Names(package, spec.loader)
    sys.modules[PACKAGE] = package


class _Names:
    """Finds names of the stand-in, and imports the whole package for those that it does not have."""

    def __init__(self, package: ModuleType, loader: Loader) -> None:
        self._package = package
        self._loader = loader
        self._is_whole = False
        self._lock = threading.RLock()  # while it is made whole, its own modules may ask for names

    def __call__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of any module, by tools
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
        if name in MODULES:
            return getattr(importlib.import_module(f"{PACKAGE}.{MODULES[name]}"), name)
        with self._lock:
            if not self._is_whole:
                self._is_whole = True
                self._loader.exec_module(self._package)  # puts another in its place when it is done
        whole = sys.modules[PACKAGE]
        if whole is self._package:
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r} yet")
        return getattr(whole, name)
