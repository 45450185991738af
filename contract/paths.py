"""What a client is told that asks at a path where there is nothing: mostly its base URL is a part too long or short."""

from contract.answers import Answer
from contract.health import REPORTS
from contract.refusals import Refusal, refusal
from contract.table import ENDPOINTS

VERSION_PREFIX = "/v1"
KNOWN = (*(endpoint.path for endpoint in ENDPOINTS), *REPORTS, "/docs")


def no_such_path(path: str) -> Answer:
    known = meant(path)
    hint = "" if known is None else f". Did you mean {known}?"
    return refusal(path, Refusal(404, "Not Found" + hint))


def meant(path: str) -> str | None:
    """Return the known path that a path ends like, as `/chat/completions` and `/v1/v1/messages/` do; None if none."""
    ending = "/" + path.strip("/")
    found = [known for known in KNOWN if ending.endswith(known.removeprefix(VERSION_PREFIX))]
    return max(found, key=len, default=None)
