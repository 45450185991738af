"""Sampling fields of other servers that this one does not have: refused by name, unless their value is off.

Frontends that were written for llama.cpp, vLLM or text-generation-webui send all of them with each request, most of
them off. One that is on changes the answer, so it is not ignored.

Source: the parameters of llama.cpp's server (its names come first), of vLLM and of text-generation-webui.
"""

from typing import Annotated

from contract.bodies import LenientBody, refuse

NO_SUCH_SAMPLER = "this server has no such sampler; use temperature, top_p, top_k or min_p"
NO_SUCH_PENALTY = "this server has no such penalty; use repetition_penalty, presence_penalty or frequency_penalty"
OF_THE_MODEL = "only the model's generation config may set it here"
NO_SUCH_LIMIT = "use max_tokens, or max_output_tokens of /v1/responses"


class OtherSamplers(LenientBody):
    """Each is refused, unless it is off."""

    typical_p: Annotated[None, refuse(NO_SUCH_SAMPLER, 0, 1)] = None
    mirostat: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    mirostat_mode: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    dynatemp_range: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    xtc_probability: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    top_n_sigma: Annotated[None, refuse(NO_SUCH_SAMPLER, 0, -1)] = None
    top_a: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    tfs: Annotated[None, refuse(NO_SUCH_SAMPLER, 1)] = None
    epsilon_cutoff: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    eta_cutoff: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    smoothing_factor: Annotated[None, refuse(NO_SUCH_SAMPLER, 0)] = None
    dry_multiplier: Annotated[None, refuse(NO_SUCH_PENALTY, 0)] = None
    no_repeat_ngram_size: Annotated[None, refuse(OF_THE_MODEL, 0)] = None
    n_predict: Annotated[None, refuse(NO_SUCH_LIMIT, -1, -2)] = None
    max_new_tokens: Annotated[None, refuse(NO_SUCH_LIMIT)] = None
    max_length: Annotated[None, refuse(NO_SUCH_LIMIT)] = None
    min_length: Annotated[None, refuse("use min_tokens", 0)] = None
