"""OpenTelemetry, where it is installed and set up: a span for each request, with its queue, prefill and decode.

The spans belong to the caller's trace (`traceparent`). They are made when a request is over, from the times noted until
then, so a request that is not traced costs one comparison.
"""

import time
from typing import Any

from interface.events import Finished
from serving.asgi import Scope
from serving.exchanges import Exchange

try:
    from opentelemetry import propagate, trace
except ImportError:  # it is not a dependency
    trace = None  # type: ignore[assignment]


def is_traced() -> bool:
    """Whether the program around the service has set up a tracer."""
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def record_spans(scope: Scope, exchange: Exchange) -> None:
    """Record a request that is over."""
    if not is_traced():
        return
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    end = time.time_ns()
    tracer = trace.get_tracer("token-by-token")
    span = tracer.start_span(
        f"{scope['method']} {scope['path']}",
        context=propagate.extract(carrier),
        kind=trace.SpanKind.SERVER,
        start_time=end - int(exchange.age * 1e9),
        attributes={
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "http.response.status_code": exchange.status or 0,
            "request.id": scope["request_id"],
        },
    )
    if exchange.log is not None and isinstance(exchange.log.end, Finished):
        _record_phases(tracer, trace.set_span_in_context(span), exchange.log.end, end)
    span.end(end)


def _record_phases(tracer: Any, context: Any, finished: Finished, end: int) -> None:
    """Record the phases one after the other; the last one ends with the request."""
    queue_ms = max(0.0, finished.total_ms - finished.prefill_ms - finished.decode_ms)
    at = end - int(finished.total_ms * 1e6)
    for name, ms in (("queue", queue_ms), ("prefill", finished.prefill_ms), ("decode", finished.decode_ms)):
        span = tracer.start_span(name, context=context, start_time=at)
        at += int(ms * 1e6)
        span.end(at)
