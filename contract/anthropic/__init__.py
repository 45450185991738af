"""Anthropic's API: `POST /v1/messages` and `/v1/messages/count_tokens`.

`request` reads a body and turns it into a conversation as chat templates know it; `answer` holds the fields of what
is sent back; `messages` puts both together. Clients set their base URL without `/v1`.

Source: Anthropic's API reference (Messages), and the models of its Python SDK.
"""
