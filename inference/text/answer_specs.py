"""What calls, reasoning and text look like in answers: the parts of which the families' response templates are made.

They are written in the terms of transformers' `response_template`. White space and names are bounded in the patterns: a
search for any amount of them would take quadratic time.
"""

from collections.abc import Mapping

from inference.text.message_answers import Spec

ANSWER_BEGINS = "|".join(
    [
        r"<\|im_start\|>assistant\n",
        r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n",
        r"\[/INST\]",
        r"\[/TOOL_RESULTS\]",
        r"<｜Assistant｜>",
        r"<\|assistant\|>",
        r"<\|start\|>assistant",
        r"<\|im_assistant\|>assistant<\|im_middle\|>",
        r"<seed:bos>assistant\n",
        r"\]~b\]ai\n",
        r"<beginning_of_sentence>ai name=assistant\n",
        r"<\|turn>model\n",
        r"<start_of_turn>model\n",
        r"<\|CHATBOT_TOKEN\|>",
        r"<\|start_of_role\|>assistant[^|]*<\|end_of_role\|>",
        r"<\|header_start\|>assistant<\|header_end\|>\n\n",
        r"<\|assistant_start\|>",
        r"assistant<\|role_sep\|>\n",
        r"<\|begin\|>assistant",
        r"<｜hy_Assistant:opensource｜>",
        r'<\|open\|>message role="assistant"<\|sep\|>',
    ]
)
THINK: Spec = {"open_pattern": r"\s{0,8}<think>", "close": "</think>", "content": "text"}
THINK_BY_TAG: Mapping[str, Spec] = {
    "[THINK]": {"open": "[THINK]", "close": "[/THINK]", "content": "text"},
    "<seed:think>": {"open": "<seed:think>", "close": "</seed:think>", "content": "text"},
    "<|START_THINKING|>": {"open": "<|START_THINKING|>", "close": "<|END_THINKING|>", "content": "text"},
    "<|channel>thought": {
        "open": ["<|channel>thought\n", "<|channel>thought"],
        "close": "<channel|>",
        "content": "text",
    },
    "<think{}>": {"open": "<think:opensource>", "close": "</think:opensource>", "content": "text"},
    "[BEGIN FINAL": {"open": "Here are my reasoning steps:\n", "close": "[BEGIN FINAL RESPONSE]", "content": "text"},
    "<|inner_prefix|>": {"open": "<|inner_prefix|>", "close": "<|inner_suffix|>", "content": "text"},
}
"""How models think that do not use <think>, by the tag in their chat templates."""
HERMES_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_call>",
    "close": "</tool_call>",
    "repeats": True,
    "content": "json",
}
XML_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_call>\s{0,8}<function=(?P<name>[^>\n]{1,100})>",
    "close_pattern": r"</function>\s{0,8}</tool_call>",
    "repeats": True,
    "content": "xml-inline",
    "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]{1,200})>\n?(?P<value>.*?)\n?</parameter>"},
    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
}
SEED_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"\s{0,8}<seed:tool_call>\s{0,8}<function=(?P<name>[^>\n]{1,100})>",
    "close_pattern": r"</function>\s{0,8}</seed:tool_call>",
}
GLM_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"\s{0,8}<tool_call>(?P<name>[\w.-]{1,100})\s{0,8}(?=<arg_key>|</tool_call>|\Z)",
    "close_pattern": r"</tool_call>",
    "content_args": {
        "tag_pattern": r"<arg_key>(?P<key>[^<\n]{1,200})</arg_key>\s{0,8}<arg_value>(?P<value>.*?)</arg_value>"
    },
}
HY3_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"(?:\s{0,8}<tool_calls:opensource>)?\s{0,8}<tool_call:opensource>\s{0,8}"
    r"(?P<name>[\w.-]{1,100})\s{0,8}<tool_sep:opensource>",
    "close_pattern": r"</tool_call:opensource>",
    "content_args": {
        "tag_pattern": r"<arg_key:opensource>(?P<key>[^<\n]{1,200})</arg_key:opensource>\s{0,8}"
        r"<arg_value:opensource>(?P<value>.*?)</arg_value:opensource>"
    },
}
INVOKED_CALLS: Spec = {  # MiniMax M2, DeepSeek V3.2
    **XML_CALLS,
    "open_pattern": r"(?:\s{0,8}<(?:minimax:tool_call|｜DSML｜\w{1,16})>)?"
    r'\s{0,8}<(?:｜DSML｜)?invoke name="(?P<name>[^"\n]{1,100})">',
    "close_pattern": r"</(?:｜DSML｜)?invoke>",
    "content_args": {
        "tag_pattern": r'parameter name="(?P<key>[^"\n]{1,200})"[^>\n]{0,100}>'
        r"(?P<value>.*?)</(?:｜DSML｜)?parameter>"
    },
}
NAMED_CALLS: Spec = {
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
"""Calls that begin with a name, which an opening pattern finds; their arguments are JSON."""
DEEPSEEK_CALLS: Spec = {
    **NAMED_CALLS,
    "open_pattern": r"(?:\s{0,8}<｜tool▁calls▁begin｜>)?\s{0,8}<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?"
    r"(?P<name>[\w.-]{1,100})(?:<｜tool▁sep｜>|\n```json\n)",
    "close_pattern": r"(?:\n```)?<｜tool▁call▁end｜>",
}
KIMI_CALLS: Spec = {
    **NAMED_CALLS,
    "open_pattern": r"(?:\s{0,8}<\|tool_calls_section_begin\|>)?\s{0,8}<\|tool_call_begin\|>\s{0,8}"
    r"(?:functions\.)?(?P<name>[\w.-]{1,100})(?::\d{1,4})?\s{0,8}<\|tool_call_argument_begin\|>",
    "close_pattern": r"<\|tool_call_end\|>",
}
LISTED_CALLS: Spec = {  # Nemotron, Apriel, Hunyuan, Jamba, Phi-4-mini, Granite 3
    "open_pattern": r"\s{0,8}(?:<TOOLCALL>|<tool_calls>|<\|tool_call\|>)(?=\s{0,8}\[)",
    "close_pattern": r"</TOOLCALL>|</tool_calls>|<\|/tool_call\|>",
    "content": "json",
}
LLAMA3_CALLS: Spec = {
    "open_pattern": r'(?:<\|python_tag\|>|<\|python_start\|>)?\s{0,8}(?=\{\s{0,8}"(?:name|type)")',
    "close_pattern": r"<\|eom_id\|>|<\|eot_id\|>|<\|eom\|>|<\|eot\|>|;\s{0,8}(?=\{)",
    "repeats": True,
    "content": "json",
}
MISTRAL_LIST_CALLS: Spec = {"open": "[TOOL_CALLS]", "close": "</s>", "content": "json"}
MISTRAL_NAMED_CALLS: Spec = {
    **NAMED_CALLS,
    "open_pattern": r"\[TOOL_CALLS\](?P<name>[\w.-]{1,100})(?:\[CALL_ID\]\w{1,40})?\[ARGS\]",
    "close_pattern": r"(?=\[TOOL_CALLS\])|</s>",
}
COHERE_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|START_ACTION\|>(?=\s{0,8}\[)",
    "close_pattern": r"<\|END_ACTION\|>",
    "content": "json",
}
ACTION_CALLS: Spec = {  # Command R and R+ of 2024
    "open_pattern": r"\s{0,8}Action:\s{0,8}```(?:json)?\s{0,8}(?=\[)",
    "close_pattern": r"```",
    "content": "json",
}
XLAM_CALLS: Spec = {
    "open_pattern": r'\s{0,8}(?=\[\s{0,8}\{\s{0,8}"name")',
    "close_pattern": r"<\|eot_id\|>|<\|im_end\|>",
    "content": "json",
}
INTERNLM_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|action_start\|>\s{0,8}<\|plugin\|>",
    "close_pattern": r"<\|action_end\|>",
    "repeats": True,
    "content": "json",
}
APERTUS_CALLS: Spec = {"open": "<|tools_prefix|>", "close": "<|tools_suffix|>", "content": "text"}
MINIMAX_M1_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_calls>(?=\s{0,8}\{)",
    "close": "</tool_calls>",
    "content": "text",
}
LONGCAT_CALLS: Spec = {
    **HERMES_CALLS,
    "open_pattern": r"\s{0,8}<longcat_tool_call>",
    "close": "</longcat_tool_call>",
}
GIGACHAT_CALLS: Spec = {
    "open_pattern": r"(?:<\|message_sep\|>\s{0,4})?(?:function call<\|role_sep\|>\s?|<\|function_call\|>)(?=\{)",
    "close_pattern": r"(?=<\|message_sep\|>)",
    "repeats": True,
    "content": "json",
}
FUNCTIONARY_CALLS: Spec = {
    **NAMED_CALLS,
    "open_pattern": r"\s{0,8}<function=(?P<name>[\w.-]{1,100})>(?=\s{0,8}\{)",
    "close": "</function>",
}
MINICPM_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r'\s{0,8}<function name="(?P<name>[^"\n]{1,100})">',
    "close_pattern": r"</function>",
    "content_args": {
        "tag_pattern": r'<param name="(?P<key>[^"\n]{1,200})">(?:<!\[CDATA\[)?(?P<value>.*?)(?:\]\]>)?</param>'
    },
}
LFM2_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|tool_call_start\|>",
    "close_pattern": r"<\|tool_call_end\|>",
    "repeats": True,
    "content": "text",
}
OLMO_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<function_calls>",
    "close_pattern": r"</function_calls>",
    "repeats": True,
    "content": "text",
}
GEMMA_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|tool_call>(?=call:)",
    "close_pattern": r"<tool_call\|>",
    "repeats": True,
    "content": "text",
}
FUNCTION_GEMMA_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<start_function_call>(?=call:)",
    "close_pattern": r"<end_function_call>",
    "repeats": True,
    "content": "text",
}
PROMPTED_CALLS: Spec = {  # functionary 3.2, whose prompts end with the first >>>
    **NAMED_CALLS,
    "open_pattern": r">>>(?P<name>(?!all\n)[\w.-]{1,100})\n(?=\s{0,8}\{)",
    "close_pattern": r"(?=>>>)|<\|eot_id\|>",
}
PROMPTED_FIELDS: Spec = {
    "text": {"content": "text"},
    "content": {"open": ">>>all\n", "close_pattern": r"(?=>>>)|<\|eot_id\|>", "content": "text"},
}


def _answer_between(opening: str, closing: str, think: Spec, calls: str = r"(?!)") -> Spec:
    """The fields of an answer whose text may stand between two tags, from which calls may break out."""
    return {
        "text": {"content": "text"},
        "reasoning_content": think,
        "content": {
            "open_pattern": rf"\s{{0,8}}(?:{opening})\s{{0,8}}",
            "close_pattern": rf"\s{{0,8}}(?:{closing})\s{{0,8}}|(?=\s{{0,8}}{calls})",
            "content": "text",
        },
    }


COHERE_FIELDS = _answer_between(
    r"<\|START_RESPONSE\|>|<\|START_TEXT\|>", r"<\|END_RESPONSE\|>|<\|END_TEXT\|>", THINK_BY_TAG["<|START_THINKING|>"]
)
HUNYUAN_FIELDS = _answer_between("<answer>", "</answer>", THINK, calls="<tool_calls>")
APRIEL_FIELDS: Spec = {
    "text": {"content": "text"},
    "reasoning_content": THINK_BY_TAG["[BEGIN FINAL"],
    "content": {  # the tag before it ends the reasoning, if there is any
        "open_pattern": r"\s{0,8}\[(?:BEGIN|END) FINAL RESPONSE\]\s{0,8}",
        "close_pattern": r"(?=\s{0,8}(?:<tool_calls>|\[END FINAL RESPONSE\]))",
        "content": "text",
    },
}
ERNIE_FIELDS = _answer_between("<response>", "</response>", THINK, calls="<tool_call>")
