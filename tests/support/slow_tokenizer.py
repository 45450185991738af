"""A scripted engine whose tokenizer waits, for tests of what may happen to a request meanwhile."""

import threading
from collections.abc import Sequence

from interface.requests import EncodedRequest, GenerationRequest
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE


class SlowTokenizer(ScriptedEngine):
    """Waits in `encode` until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_encoding = threading.Event()
        self.may_encode = threading.Event()

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        self.is_encoding.set()
        assert self.may_encode.wait(PATIENCE)
        return super().encode(requests)
