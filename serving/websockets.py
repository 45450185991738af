"""What a WebSocket is answered: none is spoken here, and clients that have both are told to go on over HTTP.

After a 426 Codex goes on over HTTP at once. After a 403 it tries a WebSocket again, and after a 400 it gives up.

Source: the ASGI extension "WebSocket Denial Response"; RFC 9110, section 15.5.22.
"""

import contract
from serving.asgi import Receive, Scope, Send, dialect, encoded, header

NO_WEBSOCKETS = contract.Refusal(
    426,
    "Expected HTTP, got a WebSocket, which this server does not speak. Send POST requests; with stream: true their "
    "answers come as server-sent events.",
    headers={"upgrade": "HTTP/1.1"},
)


def is_handshake(scope: Scope) -> bool:
    """Whether a request asks for a WebSocket. It comes as HTTP if the server has no library for them."""
    return scope["method"] == "GET" and (header(scope, b"upgrade") or "").lower() == "websocket"


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket before it is open: with the reason, where the server can send one."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    request_id = contract.request_id(header(scope, b"x-request-id"))
    answer = dialect(scope).refusal(NO_WEBSOCKETS).for_request(request_id)
    start = {"status": answer.status, "headers": encoded(answer.headers)}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": answer.body})
