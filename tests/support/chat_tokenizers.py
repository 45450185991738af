"""Byte tokenizers with the control tokens and a small chat template of each family of models.

The templates are written for the tests: as short as they can be and still place messages, tools, tool calls and
reasoning where the family's own templates place them.
"""

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from tests.support.own_copy import own_copy
from tests.support.tiny_models import byte_tokenizer

PLAIN = """
{{- bos_token }}
{%- for message in messages %}
{{- '[' + message['role'] + ']' + message['content'] + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""

HERMES = """
{%- if tools %}
{{- '<|im_start|>system\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}
{{- 'Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\n' }}
{%- if message.role == 'tool' %}{{ '<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- else %}{{ message.content or '' }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}{{ call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

QWEN = HERMES + "{% if add_generation_prompt and enable_thinking %}{{ '<think>\n' }}{% endif %}"

LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + '<|end_header_id|>\n\n' }}
{%- if loop.first and tools %}{{ 'Functions: ' }}{{ tools | tojson }}{{ '\n' }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '{"name": "' + call.function.name + '", "parameters": ' }}{{ call.function.arguments | tojson }}{{ '}' }}
{%- endfor %}
{{- message.content or '' }}{{ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

_MISTRAL_BEGIN = """
{{- bos_token }}
{%- if tools %}{{ '[AVAILABLE_TOOLS]' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ '[INST]' + message.content + '[/INST]' }}
{%- elif message.role == 'tool' %}{{ '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
{%- elif message.role != 'assistant' %}{{ raise_exception('Only user, assistant and tool, not ' + message.role) }}
{%- elif message.tool_calls %}"""
_MISTRAL_END = """
{%- else %}{{ message.content + eos_token }}
{%- endif %}
{%- endfor %}"""

MISTRAL_LIST = (
    _MISTRAL_BEGIN
    + """
{{- '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}{{ call.function.arguments | tojson }}{{ '}' }}
{%- endfor %}
{{- ']' + eos_token }}"""
    + _MISTRAL_END
)

MISTRAL_NAMED = (
    _MISTRAL_BEGIN
    + """
{%- for call in message.tool_calls %}
{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' }}{{ call.function.arguments | tojson }}
{%- endfor %}
{{- eos_token }}"""
    + _MISTRAL_END
)

HARMONY = """
{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- if messages[0].role in ['developer', 'system'] %}
{%- set instructions, messages = messages[0].content, messages[1:] %}
{%- endif %}
{%- if instructions or tools %}
{{- '<|start|>developer<|message|>' + (instructions or '') }}
{%- for tool in tools or [] %}
{{- '// ' + tool.function.description + '\ntype ' + tool.function.name + ' = ' }}{{ tool.function.parameters | tojson }}
{%- endfor %}
{{- '<|end|>' }}
{%- endif %}
{%- set called = namespace(name=none) %}
{%- for message in messages %}
{%- if message.role == 'assistant' and 'tool_calls' in message %}
{%- if message.content and message.thinking %}{{ raise_exception('Cannot pass both content and thinking') }}{% endif %}
{%- if message.content or message.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + (message.content or message.thinking) + '<|end|>' }}
{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
{{- call.arguments | tojson }}{{ '<|call|>' }}
{%- set called.name = call.name %}
{%- elif message.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start|>functions.' + called.name + ' to=assistant<|channel|>commentary<|message|>' }}
{{- message.content | tojson }}{{ '<|end|>' }}
{%- elif message.role == 'user' %}
{{- '<|start|>user<|message|>' + message.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

TEMPLATES = {
    "plain": PLAIN,
    "hermes": HERMES,
    "qwen": QWEN,
    "llama3": LLAMA3,
    "mistral_list": MISTRAL_LIST,
    "mistral_named": MISTRAL_NAMED,
    "harmony": HARMONY,
}
_IM = ["<|im_start|>", "<|im_end|>"]
_MISTRAL_TOKENS = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
CONTROL_TOKENS = {
    "plain": [],
    "hermes": _IM,
    "qwen": _IM,
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "mistral_list": _MISTRAL_TOKENS,
    "mistral_named": _MISTRAL_TOKENS,
    "harmony": ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"],
}
ORDINARY_TOKENS = {"qwen": ["<tool_call>", "</tool_call>", "<think>", "</think>"]}
"""Added tokens that are not special, as Qwen's tokenizer has them."""


@own_copy
def chat_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """A tokenizer as a model of this family has it; its BOS token is <mark>, its EOS token <eos>."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = "<mark>", "<eos>"
    special = [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS[family]]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ordinary = ORDINARY_TOKENS.get(family, [])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ordinary])
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


def tool(name: str, strict: bool = False, **properties: object) -> dict[str, object]:
    """A tool in OpenAI's form, all of whose parameters are required."""
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}
