"""The table of the architectures that are served from GGUF files."""

from collections.abc import Callable, Mapping

from inference.weights.gguf.architecture import Architecture
from inference.weights.gguf.families import (
    bailing,
    cohere,
    dbrx,
    gemma,
    gemma4,
    glm,
    gpt,
    gpt_oss,
    layer_norms,
    lfm2,
    llama,
    llama4,
    mamba,
    minicpm3,
    mixtures,
    olmo,
    others,
    phi,
    qwen,
    qwen_next,
    sigmoid_mixtures,
)
from inference.weights.gguf.file import GGUFFile
from inference.weights.gguf.unserved import refusal, refuse_other

ARCHITECTURES: dict[str, Architecture] = {
    **llama.FAMILY,
    **llama4.FAMILY,
    **qwen.FAMILY,
    **gemma.FAMILY,
    **gemma4.FAMILY,
    **phi.FAMILY,
    **gpt.FAMILY,
    **gpt_oss.FAMILY,
    **glm.FAMILY,
    **cohere.FAMILY,
    **dbrx.FAMILY,
    **olmo.FAMILY,
    **layer_norms.FAMILY,
    **minicpm3.FAMILY,
    **bailing.FAMILY,
    **mixtures.FAMILY,
    **sigmoid_mixtures.FAMILY,
    **others.FAMILY,
    **lfm2.FAMILY,
    **qwen_next.FAMILY,
    **mamba.FAMILY,
}
"""By the names that files have for them in `general.architecture`."""


def _says(*keys: str) -> Callable[[GGUFFile], bool]:
    """Whether a file says one of these: see `GGUFFile.says`."""
    return lambda file: any(map(file.says, keys))


VARIANTS: Mapping[str, tuple[Callable[[GGUFFile], bool], Architecture]] = {
    "llama": (_says("expert_count"), llama.MIXTRAL),
    "granite_swa": (_says("expert_count"), llama.GRANITE_MOE_SWA),
    "mistral3": (_says(*llama.MINISTRAL3.keys), llama.MINISTRAL3),
    "olmo2": (_says("attention.sliding_window"), olmo.OLMO3),
    "cohere2moe": (_says("attention.layer_norm_rms_epsilon"), cohere.RMS_COHERE2_MOE),
    "deepseek2": (mixtures.is_corrected, mixtures.DEEPSEEK3),
}
"""Names under which some files have another architecture: how these are known, and what they have."""


def keys_read(file: GGUFFile) -> frozenset[str]:
    """The keys that are read for the file's architecture or a variant of it; none if it is not served."""
    name = str(file.metadata.get("general.architecture"))  # a file without one is refused later, with the reason
    rows = [ARCHITECTURES.get(name), VARIANTS.get(name, (None, None))[1]]
    return frozenset(key for row in rows if row is not None for key in row.keys)


def architecture_of(file: GGUFFile) -> Architecture:
    """How the file has its model.

    Raises:
        BadGGUF: it has none, or one that is not served from GGUF files.
    """
    refuse_other(file)
    if file.architecture not in ARCHITECTURES:
        raise refusal(file, len(ARCHITECTURES))
    if file.architecture in VARIANTS:
        is_other, other = VARIANTS[file.architecture]
        if is_other(file):
            return other
    return ARCHITECTURES[file.architecture]
