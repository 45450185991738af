"""Anthropic's API: `POST /v1/messages` and `/v1/messages/count_tokens`.

`request` turns a body into a conversation in the form of chat templates, and `tools` its tools into functions, which
`tool_changes` in the conversation may add and remove; `answer` has the types of the answers; `message_builder` makes an
answer out of events; `messages` defines the endpoints. `blocks` reads the text of content blocks, and `dialect` has the
errors. Clients set their base URL without `/v1`.

Source: Anthropic's API reference (Messages), and the models of its Python SDK.
"""
