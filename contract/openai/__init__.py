"""The OpenAI API: its errors, its models, and its three ways of asking for text.

Every endpoint has a module with its request and its call; the types of its answers and the writer of its stream stand
in modules of their own. A whole answer and a stream are made by the same code, so joining the deltas of the one gives
the other.

The modules, by topic:

    completions         `completions` with its `text_answer`; `stream` makes whole answers and streams of both APIs of
                        choices
    chat completions    `chat`, with `chat_request` and `chat_answer`
    responses           `responses`, with `responses_request`, `response_settings` and `responses_tools`;
                        `response_builder` makes a `responses_answer` out of events
    kept responses      `responses_by_id`, `kept_responses`; `background` and `running_responses` for those that are
                        made without their client; `references` to them in later requests
    conversations       `conversations`, `kept_conversations`
    stored chats        `chats_by_id`, `stored_chats`; `item_pages` lists all of these, `items` says how, and `metadata`
                        is what clients write on them
    long conversations  `compact`, `compacted`
    tools               `custom_tools` with `lark_pattern`, `client_tools`
    shared              `sampling` with `other_samplers`, `reasoning_fields`, `grammar_fields`, `logprobs`, `usage`,
                        `dialect` (errors), `models`

Source: the OpenAI API reference; extra fields are those of vLLM.
"""
