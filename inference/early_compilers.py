"""Starts a model's compilers before the libraries are imported, so that both take their time at once.

Memory for its weights is fetched meanwhile too. What all this takes is read from a GGUF file's header, without torch.
It is a guess: the decoder compiles what it needs itself if it needs something else, and what is wrong with a file is
said when it is loaded.
"""

from contextlib import suppress
from pathlib import Path

from config import Config
from inference.decoders.native import sources
from inference.decoders.native.build import begin, set_cache_folder
from inference.decoders.native.library_cache import cache_folder
from interface.errors import LoadError


def compile_ahead(config: Config) -> None:
    """Start what compiling the model that `config` names will take, and do not wait for it."""
    if not (config.compile or config.quantize) or config.device not in ("auto", "cpu"):
        return
    set_cache_folder(cache_folder(config.compile_cache))
    begin(sources.CHOOSER, sources.CHOOSER_DEFINITIONS)
    path = Path(config.model)
    if path.is_file() and config.quantize is None:
        with suppress(LoadError, OSError):
            _begin_decoder(path, config.dtype)


def _begin_decoder(path: Path, dtype: str) -> None:
    """Compile the decoder for a GGUF file, and fetch memory for its weights, unless there will be no such decoder."""
    # Not at the top: the first compiler has a tenth of a second of its own while numpy is imported.
    from inference.weights.formats import FORMATS
    from inference.weights.gguf.file import GGUFFile, is_gguf
    from inference.weights.gguf.heads import LLAMAS, head_sizes
    from inference.weights.memory_ahead import AHEAD

    if not is_gguf(path):
        return
    file = GGUFFile.open(path)
    kinds = {blocks.kind.name for blocks in file.tensors.values()}
    formats = [FORMATS[kind].number for kind in kinds if kind in FORMATS]
    if file.architecture not in LLAMAS or not formats or dtype not in ("auto", "bfloat16", "float32"):
        return
    heads, kv_heads, head_dim = head_sizes(file)
    begin(sources.DECODER, sources.decoder_definitions(dtype != "float32", formats, head_dim, heads // kv_heads))
    AHEAD.fetch(file.bytes)
