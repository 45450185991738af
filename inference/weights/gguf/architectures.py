"""The table of the architectures that are served from GGUF files."""

from inference.weights.gguf.architecture import Architecture
from inference.weights.gguf.families import cohere, gemma, glm, gpt_oss, layer_norms, llama, olmo, others, phi, qwen
from inference.weights.gguf.file import BadGGUF, GGUFFile

ARCHITECTURES: dict[str, Architecture] = {
    **llama.FAMILY,
    **qwen.FAMILY,
    **gemma.FAMILY,
    **phi.FAMILY,
    **gpt_oss.FAMILY,
    **glm.FAMILY,
    **cohere.FAMILY,
    **olmo.FAMILY,
    **layer_norms.FAMILY,
    **others.FAMILY,
}
"""By the names that files have for them in `general.architecture`."""

VARIANTS = {
    "llama": ("expert_count", llama.MIXTRAL),
    "mistral3": ("attention.temperature_scale", llama.MINISTRAL3),
    "olmo2": ("attention.sliding_window", olmo.OLMO3),
}
"""Names under which files have another architecture if they have this key, and not 0."""

OTHER_FILES = {
    "adapter": "merge it into its model with llama.cpp's llama-export-lora, and serve the file that this makes",
    "mmproj": "it is what a model sees and hears with; serve the model's own file, which is next to it",
    "imatrix": "it says which weights matter when a model is quantized; serve the model's own file",
}
"""Other types of GGUF files (`general.type`), and what to do about them."""


def architecture_of(file: GGUFFile) -> Architecture:
    """How the file has its model.

    Raises:
        BadGGUF: it has none, or one that is not served from GGUF files.
    """
    kind = file.get("general.type", str, "model")
    if kind in OTHER_FILES:
        raise BadGGUF(file.path, f"expected a model, got general.type {kind}: {OTHER_FILES[kind]}")
    if not file.tensors:
        raise BadGGUF(file.path, "expected the weights of a model, got a file without tensors, a vocabulary perhaps")
    if file.architecture not in ARCHITECTURES:
        raise BadGGUF(file.path, f"its architecture is {file.architecture}; expected one of {', '.join(ARCHITECTURES)}")
    if file.architecture in VARIANTS:
        key, variant = VARIANTS[file.architecture]
        if file.metadata.get(f"{file.architecture}.{key}"):
            return variant
    return ARCHITECTURES[file.architecture]
