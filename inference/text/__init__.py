"""From a request to token ids, and from token ids to an answer, without the model's weights.

`text_side` is the interface of both. The modules, by topic:

    a prompt            `prompts` prepares a request, and `templates` render its conversation. `template_messages`
                        writes its messages for a template, in one of the `message_forms`: with `described_tools` if
                        it knows no tools, and with calls and results as text if it does not show them
                        (`shown_parts`). `prompt_length` and `shortening` deal with one that is too long
    an answer           `answer` makes its events: `output_text` turns token ids into text (`detokenizer`,
                        `token_bytes`) and ends it (`stop_strings`); `response_parser` splits it into its parts, of
                        which some are `text_parts`, as the model's `response_format` says
    calls in an answer  `call_region` finds where they end, `call_values` reads whole ones, `call_reader` reads those of
                        a guaranteed form while they are generated
    families of models  `families` is their table. How each writes calls: `tool_forms`, `call_notations`,
                        `parameter_types`; how its answers are built: `answer_specs`, `message_answers`,
                        `element_answers`
    grammars            `grammar` makes an answer match one. `grammar_source` writes it from a request's schema, once
                        `narrowed_schemas`, `schema_addresses` and `schema_keywords` have rewritten what llguidance
                        cannot read, and `gbnf` llama.cpp's grammars; `grammar_limits` refuses what takes it too long.
                        `tool_grammar` and `parameter_grammar` make an answer call tools
"""
