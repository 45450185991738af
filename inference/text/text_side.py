"""Everything between a request and token ids, in both directions: what a model's tokenizer and settings decide.

No tensors, and no idea of where the model is computed: our engine has it in this process, other services elsewhere.
Any thread may call any method.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from inference.text.answer import Answer
from inference.text.prompts import PromptEncoder
from inference.text.templates import Rendered
from inference.text.token_bytes import TokenBytes, special_tokens
from interface.engine import ModelInfo, Tokenized
from interface.errors import RequestError
from interface.requests import BANNED, EncodedRequest, GenerationRequest, Prompt, SettledParams

log = logging.getLogger("engine")

Ends = Mapping[int, str | int | None]
"""The tokens that end a text, each with its `stop_reason`."""


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """What comes with a model about the texts that it generates."""

    eos_ids: Collection[int] = ()
    """The tokens with which the model ends its text."""
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    """The model's own, under the names of `SamplingParams`."""
    suppressed: Collection[int] = ()
    """The tokens that are never chosen."""
    stop_strings: Sequence[str] = ()
    """The texts at which every answer ends."""
    biases: Mapping[int, float] = field(default_factory=dict)
    """What is added to the logits of tokens that a request does not name in its own `logit_bias`."""


class TextSide:
    """The text side of one model.

    Args:
        context: tokens of a prompt and its answer together, at most.
        vocabulary: how many tokens the model has logits for.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context: int, vocabulary: int, generation: GenerationSettings
    ) -> None:
        self.info = ModelInfo(context, vocabulary, _tokenizer_info(tokenizer), dict(generation.sampling_defaults))
        self._eos_ids = self._known(generation.eos_ids)
        self._bans = {token_id: BANNED for token_id in generation.suppressed if 0 <= token_id < vocabulary}
        self._biases = {token_id: bias for token_id, bias in generation.biases.items() if 0 <= token_id < vocabulary}
        self._stop_strings = generation.stop_strings
        self.prompts = PromptEncoder(tokenizer, context, vocabulary, self._eos_ids)
        self._token_bytes = TokenBytes(tokenizer)
        names = special_tokens(tokenizer)
        self._special = {token: token_id for token_id, token in names.items() if token_id < vocabulary}

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """Render and tokenize prompts, compile grammars, settle the sampling parameters.

        Requests that share a prompt object share the work.

        Raises:
            PromptTooLong: it does not fit the context together with its max_tokens.
            RequestError: the model cannot take the prompt, or cannot do what the request asks for.
        """
        prompts = {id(request.prompt): request.prompt for request in requests}
        rendered = {key: self.prompts.render_checked(prompt) for key, prompt in prompts.items()}
        return [self._encoded(request, rendered[id(request.prompt)]) for request in requests]

    def answer(self, encoded: EncodedRequest) -> Answer:
        """Return what makes the events of a request, to which the engine shows its tokens."""
        decode, hidden = self.prompts.decoder(encoded), self.prompts.hidden_tokens(encoded)
        return Answer(encoded, decode, self.ends(encoded.params), self._token_bytes, hidden, self._stop_strings)

    def ends(self, params: SettledParams) -> Ends:
        """The tokens that end a text."""
        eos: Ends = {} if params.ignore_eos else dict.fromkeys(self._eos_ids)
        stops = {token_id: token_id for token_id in params.stop_token_ids or ()}
        # Special tokens have no text in the answer where a stop string could be found.
        special = self._special
        own: Ends = {special[stop]: None for stop in self._stop_strings if stop in special}
        return {**own, **eos, **stops, **{special[stop]: stop for stop in params.stop or () if stop in special}}

    def tokenize(self, prompt: Prompt) -> Tokenized:
        """Return a prompt's token ids, and the text of each."""
        return self.prompts.tokenize(prompt)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return self.prompts.detokenize(token_ids)

    def _encoded(self, request: GenerationRequest, rendered: Rendered) -> EncodedRequest:
        begun = self.prompts.begun(request)
        prompt_ids = [*rendered.token_ids, *begun] if begun else rendered.token_ids
        params = self._settled(request, len(prompt_ids))
        reader = self.prompts.reader(request, rendered.text)
        return EncodedRequest(request, prompt_ids, params, self.prompts.grammar(request, reader), reader)

    def _settled(self, request: GenerationRequest, prompt_tokens: int) -> SettledParams:
        """The request's parameters; for one that it does not name, the model's own default or else the documented."""
        params = request.params
        self._check_token_ids("logit_bias", params.logit_bias or ())
        self._check_token_ids("stop_token_ids", params.stop_token_ids or ())
        self._check_bans(params.logit_bias or {})
        defaults = {"temperature": request.default_temperature, **self.info.sampling_defaults}
        settled = SettledParams.of(params, request.max_tokens(prompt_tokens, self.info.context), defaults)
        if not (self._bans or self._biases):
            return settled
        return settled.model_copy(update={"logit_bias": self._biases | (params.logit_bias or {}) | self._bans})

    def _known(self, eos_ids: Collection[int]) -> list[int]:
        """Those of the tokens that the model can say; files of models with a smaller vocabulary name others too."""
        known = [token_id for token_id in eos_ids if 0 <= token_id < self.info.vocabulary]
        if others := sorted(set(eos_ids) - set(known)):
            log.warning(
                "EOS token %s is not one of the model's, which are those below %d; no text ends with it",
                ", ".join(map(str, others)),
                self.info.vocabulary,
            )
        return known

    def _check_token_ids(self, param: str, token_ids: Iterable[int]) -> None:
        largest = max(token_ids, default=0)
        if largest >= self.info.vocabulary:
            message = f"{param}: expected token ids below {self.info.vocabulary}, got {largest}."
            raise RequestError(message, param)

    def _check_bans(self, bias: Mapping[int, float]) -> None:
        if len(bias) >= self.info.vocabulary and all(value <= BANNED for value in bias.values()):
            raise RequestError("logit_bias: it bans every token, so that none can be chosen.", "logit_bias")


def _tokenizer_info(tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    info = {name: getattr(tokenizer, name, None) for name in names}
    if isinstance(info["chat_template"], dict):  # several by their names: the one for conversations without tools
        info["chat_template"] = info["chat_template"].get("default")
    return {"tokenizer_class": type(tokenizer).__name__, **info}
