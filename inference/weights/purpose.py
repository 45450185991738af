"""Sees from a folder's small files whether its model was made to continue texts.

Models that classify texts or make embeddings have the layers of those that write, and often the same model_type and the
same tensors. If the head of one is its embedding, it would be served, and its answers would be fluent garbage.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.weights.safetensors_header import BadFile

MODULES = "modules.json"
"""Says how sentence-transformers makes embeddings with a model."""
POOLING = re.compile(rb'"sentence_transformers\.[\w.]*\bPooling"')
"""The part that makes one vector of those of a text's tokens."""
OTHER_PURPOSES: Mapping[str, str] = {
    r"Classification$|Regression$|MultipleChoice$|NextSentencePrediction$|Reward(Model)?$": "gives grades to texts",
    r"QuestionAnswering(Simple)?$": "finds answers in a text",
    r"MaskedLM$": "fills gaps in a text",
    r"Retrieval$|Embeddings?(Model)?$|TextEncoding$|SentenceTransformer$": "makes embeddings of texts",
}
"""What models do whose classes have such names, by the ends of these."""
WANTED = "expected a model that continues texts"


def refuse_other_purposes(folder: Path, settings: Mapping[str, Any]) -> None:
    """See that a model continues texts, as far as its files say what it is for.

    Args:
        settings: the content of its config.json.

    Raises:
        BadFile: it does something else.
    """
    classes = settings.get("architectures")
    for name in classes if isinstance(classes, list) else ():
        for endings, purpose in OTHER_PURPOSES.items():
            if re.search(endings, str(name)):
                raise BadFile(folder / "config.json", f"architectures: {name} {purpose}; {WANTED}")
    if (path := folder / MODULES).is_file() and POOLING.search(path.read_bytes()):
        raise BadFile(path, f"the model makes embeddings of texts, with sentence-transformers; {WANTED}")
