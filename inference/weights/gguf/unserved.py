"""Says why a GGUF file is not served, and what can be done about it."""

from collections.abc import Mapping

from inference.weights.gguf.file import BadGGUF, GGUFFile

ELSEWHERE = "let llama-server serve the file, and name that server in ENGINE_BACKEND_URL, with ENGINE_BACKEND=openai"
ADVICE = f"Serve the folder that it was made of, if docs/models.md has its model; or {ELSEWHERE}."
"""What can be done about a file that llama.cpp may be able to serve."""

OTHER_FILES: Mapping[str, str] = {
    "adapter": "merge it into its model with llama.cpp's llama-export-lora, and serve the file that this makes",
    "mmproj": "it is what a model sees and hears with; serve the model's own file, which is next to it",
    "imatrix": "it says which weights matter when a model is quantized; serve the model's own file",
    "controlvector": "it changes what a model says, which is not supported; serve the model's own file",
}
"""Other types of GGUF files (`general.type`), and what to do about them."""
OTHER_NAMES: Mapping[str, str] = {"clip": "mmproj", "imatrix": "imatrix", "controlvector": "controlvector"}
"""The architectures that such files name; older ones have no type."""


EMBEDS = "it makes embeddings or ranks of texts and writes none; expected a model that writes texts"
STATES = (
    f"its layers keep states; serve the folder that it was made of, if docs/models.md has its model, or {ELSEWHERE}"
)
FALLS_OFF = f"its attention falls off with the distance (ALiBi), which this server's does not; {ELSEWHERE}"
REASONS: Mapping[str, str] = {
    **dict.fromkeys(("bert", "modern-bert", "neo-bert", "eurobert", "nomic-bert", "nomic-bert-moe"), EMBEDS),
    **dict.fromkeys(("jina-bert-v2", "jina-bert-v3", "gemma-embedding", "llama-embed", "t5encoder"), EMBEDS),
    **dict.fromkeys(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "jamba", "plamo2"), STATES),
    "kimi-linear": STATES,
    **dict.fromkeys(("mpt", "bloom", "refact", "jais"), FALLS_OFF),
    **dict.fromkeys(
        ("dream", "llada", "llada-moe", "rnd1"),
        "it writes texts by diffusion; expected a model that writes one token after the other",
    ),
    "t5": f"it reads a text in one part and writes in another, of which this server has only the second; {ELSEWHERE}",
    "wavtokenizer-dec": "it makes sounds; expected a model that writes texts",
}
"""Why architectures are not served, by the names that files have for them."""


def refuse_other(file: GGUFFile) -> None:
    """See that a file is a model that writes texts.

    Raises:
        BadGGUF: it is something else.
    """
    kind = file.get("general.type", str, "model")
    name = file.metadata.get("general.architecture")
    kind = OTHER_NAMES.get(str(name), kind)
    if kind in OTHER_FILES:
        raise BadGGUF(file.path, f"expected a model, got one of the type {kind}: {OTHER_FILES[kind]}")
    if not file.tensors:
        raise BadGGUF(file.path, "expected the weights of a model, got a file without tensors, a vocabulary perhaps")
    if pooling := file.get(f"{name}.pooling_type", int, 0):
        raise BadGGUF(file.path, f"{name}.pooling_type is {pooling}: {EMBEDS}")
    if heads := [tensor for tensor in file.tensors if tensor.startswith("cls.")]:
        raise BadGGUF(file.path, f"it has a tensor {heads[0]}: {EMBEDS}")


def refusal(file: GGUFFile, served: int) -> BadGGUF:
    """The error about an architecture that is not among the `served` ones."""
    name = file.architecture
    if reason := REASONS.get(name):
        return BadGGUF(file.path, f"its architecture is {name}: {reason}")
    return BadGGUF(
        file.path,
        f"its architecture is {name}; expected one of the {served} that docs/checkpoints.md lists. {ADVICE}",
    )
