"""Starts a model's compilers before the libraries are imported, so that both run at the same time.

Memory for the weights is fetched at the same time, too. What to compile is read from a GGUF file's header, without
torch. That is a guess: if the decoder needs something else it compiles it itself, and errors in a file are reported
when it is loaded.
"""

from contextlib import suppress
from pathlib import Path

from config import ModelSettings
from inference.cpp.build import begin, set_cache_folder
from inference.cpp.library_cache import cache_folder
from inference.decoders.native import sources
from inference.sampling.source import CHOOSER
from interface.errors import LoadError

DECODER_NICENESS, CHOOSER_NICENESS = 5, 10
"""How much larger the compilers' nice values are than that of the imports, which the start waits for longest. The
decoder is needed first: to pack the weights."""


def compile_ahead(config: ModelSettings) -> None:
    """Start compiling for the model that `config` names, without waiting for it."""
    if not config.is_compiled or config.device not in ("auto", "cpu"):
        return
    set_cache_folder(cache_folder(config.compile_cache))
    begin(CHOOSER, niceness=CHOOSER_NICENESS)
    path = Path(config.model)
    if path.is_file() and config.quantize is None:
        with suppress(LoadError, OSError):
            _begin_decoder(path, config.dtype)


def _begin_decoder(path: Path, dtype: str) -> None:
    """Compile the decoder for a GGUF file, and fetch memory for its weights, unless there will be no such decoder."""
    # Not at the top: the first compiler has a tenth of a second of its own while numpy is imported.
    from inference.weights.formats import FORMATS
    from inference.weights.gguf.ahead import OPENED
    from inference.weights.gguf.file import is_gguf
    from inference.weights.gguf.heads import ROTATED_IN_PART, ROUTER, has_experts, head_sizes, stays_as_it_is
    from inference.weights.memory_ahead import AHEAD

    if not is_gguf(path):
        return
    file = OPENED.open(path)
    matrices = {
        (blocks.kind.name, len(blocks.data))
        for blocks in file.tensors.values()
        if len(blocks.shape) > 1 and f".{ROUTER}." not in blocks.name
    }
    formats = [FORMATS[kind].number for kind, _ in matrices if kind in FORMATS]
    has_plain = not all(sources.stays_quantized(*matrix) for matrix in matrices)
    if not stays_as_it_is(file) or not formats or dtype not in ("auto", "bfloat16", "float32"):
        return
    heads, kv_heads, head_dim = head_sizes(file, file.architecture in ROTATED_IN_PART)
    group = heads // kv_heads
    is_bfloat16 = dtype != "float32"
    units = sources.decoder_units(is_bfloat16, formats, has_plain, head_dim, group, has_experts(file))
    begin(*units, niceness=DECODER_NICENESS)
    AHEAD.fetch(file.bytes_held)
