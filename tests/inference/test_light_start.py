"""Imports of a start: a GGUF file's blocks need neither transformers' models nor torch's compiler.

They are more than a second of a start that takes three.
"""

import subprocess
import sys
from pathlib import Path

from transformers import LlamaConfig

from study.common.launcher import ROOT
from tests.support.gguf_files import write_gguf
from tests.support.imports import all_modules_after
from tests.support.smollm2 import smollm2_file
from tests.support.tiny_models import NO_ENDS, SHAPE, bpe_tokenizer, model_of

SIZES = SHAPE | NO_ENDS | {"intermediate_size": 64}  # whole blocks
HEAVY = {"sympy", "torch._dynamo", "torch._inductor", "transformers.activations", "transformers.modeling_utils"}


DEFER = "from inference.weights.lean_transformers import defer_model_classes; defer_model_classes()"
STRUCTURE = "from transformers.utils.import_utils import define_import_structure"


def loading(path: Path, is_compiled: bool) -> str:
    """Python that imports the engine and loads a file's weights, as a server does."""
    return (
        f"{DEFER}; import engine; from config import Config; from inference.weights.checkpoint import load_checkpoint; "
        f"load_checkpoint(Config(model={str(path)!r}, compile={is_compiled}, device='cpu', context=64))"
    )


def test_the_blocks_of_a_file_are_loaded_without_models_and_compilers(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(LlamaConfig(**SIZES)), bpe_tokenizer(), "Q4_0")
    loaded = all_modules_after(loading(path, is_compiled=True))
    assert {"engine", "inference.decoders.native.decoder", "torch", "transformers"} <= loaded
    assert loaded & HEAVY == set()


def test_the_compilers_begin_before_torch_is_there() -> None:
    config = f"Config(model={str(smollm2_file())!r}, compile=True, device='cpu')"
    begin = "early_compilers.begin = lambda *units, niceness: print(*(unit.source.stem for unit in units))"
    loaded = all_modules_after(
        f"from config import Config; from inference import early_compilers; {begin}; "
        f"early_compilers.compile_ahead({config})"
    )
    assert {"choose", "decoder", "kernels", "gguf"} <= loaded
    assert loaded & {"torch", "transformers"} == set()


def test_a_start_does_not_look_through_all_of_transformers_models() -> None:
    program = f"""
{loading(smollm2_file(), is_compiled=True)}
{STRUCTURE}
assert define_import_structure.cache_info().misses == 0
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=50, check=True)


def test_the_package_becomes_whole_for_what_needs_a_model() -> None:
    program = f"""
{DEFER}
from transformers import PreTrainedTokenizerFast as before
from transformers import LlamaConfig, PreTrainedTokenizerFast, __version__
{STRUCTURE}
assert PreTrainedTokenizerFast is before
assert define_import_structure.cache_info().misses > 0
import transformers
assert transformers.LlamaConfig is LlamaConfig and transformers.utils is not None
try:
    from transformers import NoSuchModel
except ImportError as error:
    assert "NoSuchModel" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=50, check=True)
