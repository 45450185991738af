"""Loads the text side of a model alone: its tokenizer and its settings, but no weights.

For engines elsewhere, which may serve models that ours does not support: only what the text side needs is read and
checked.
"""

from config import EngineSettings
from inference.text.text_side import GenerationSettings, TextSide
from inference.weights.context import choose_context
from inference.weights.folder import TextFiles
from inference.weights.generation_settings import find_eos_ids, find_sampling_defaults
from inference.weights.gguf.source import GGUFSource
from inference.weights.locate import locate
from inference.weights.quiet import quiet
from inference.weights.weight_checks import reason
from interface.errors import LoadError


def load_text_side(config: EngineSettings) -> TextSide:
    """Load the text side of the model that `config` names: a folder, a GGUF file or a hub name.

    Raises:
        LoadError: there is no such model, or its files are not what they should be.
    """
    path = locate(config.model, weights=False)
    files = GGUFSource(path, config.model) if path.is_file() else TextFiles(path, config.model)
    with quiet():
        try:
            model_config = files.config()
            tokenizer = files.tokenizer(model_config)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{config.model}: its tokenizer cannot be loaded: {reason(error)}") from error
    found = files.generation_settings()
    settings = GenerationSettings(
        find_eos_ids([(files.config_path, files.settings), found], tokenizer, model_config),
        find_sampling_defaults(*found, files.generation_names) if config.generation_config == "auto" else {},
    )
    context = choose_context(config.context, model_config)
    return TextSide(tokenizer, context, model_config.get_text_config().vocab_size, settings)
