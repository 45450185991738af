"""The fields of a chat request that say whether to reason, and how the reasoning is shown: of several servers.

`reasoning_effort` is OpenAI's. Clients that were written for another server turn reasoning off by its field, and an
answer that reasons all the same takes many times as long.

Source: the chat completions of Qwen (`enable_thinking`), of GLM, DeepSeek and Kimi (`thinking`), of OpenRouter
(`reasoning`), of vLLM (`include_reasoning`), and of llama.cpp's server and Groq (`reasoning_format`).
"""

from typing import Any, Literal

from pydantic import Field

from contract.bodies import LenientBody
from contract.conversation import thinking_arguments, thinking_switches


class ThinkingMode(LenientBody):
    """Whether to reason."""

    type: Literal["enabled", "disabled", "adaptive", "auto"]


class Reasoning(LenientBody):
    """How much to reason, and whether to show it."""

    effort: str | None = None
    enabled: bool | None = None
    exclude: bool = False


class ReasoningFields(LenientBody):
    """Whether to reason, and how the reasoning is shown."""

    reasoning_effort: str | None = Field(default=None, description="`none` turns reasoning off where a model can.")
    enable_thinking: bool | None = Field(default=None, description="Qwen's name for it: whether to reason.")
    thinking: ThinkingMode | None = Field(default=None, description="GLM's, DeepSeek's and Kimi's name for it.")
    reasoning: Reasoning | None = Field(default=None, description="OpenRouter's name for it.")
    include_reasoning: bool = Field(default=True, description="`false` leaves the reasoning out of the answer.")
    reasoning_format: Literal["auto", "deepseek", "deepseek-legacy", "parsed", "none", "raw", "hidden"] = Field(
        default="auto",
        description="Where the reasoning is: in `reasoning_content`, with `none` or `raw` in the content as the model "
        "writes it, with `hidden` nowhere.",
    )

    @property
    def thinking_arguments(self) -> dict[str, Any]:
        """What the chat template is told of it. The fields that say less come first, for the others to prevail."""
        asked = self.reasoning or Reasoning()
        arguments = thinking_arguments(asked.effort if self.reasoning_effort is None else self.reasoning_effort)
        if asked.enabled is not None:
            arguments |= thinking_switches(asked.enabled)
        if self.thinking is not None:
            arguments |= thinking_switches(self.thinking.type != "disabled")
        if self.enable_thinking is not None:
            arguments |= thinking_switches(self.enable_thinking)
        return arguments

    @property
    def shows_reasoning(self) -> bool:
        hides = self.reasoning is not None and self.reasoning.exclude
        return self.include_reasoning and self.reasoning_format != "hidden" and not hides

    @property
    def separates_reasoning(self) -> bool:
        return self.reasoning_format not in ("none", "raw")
