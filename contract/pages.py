"""The pages for browsers: files of `page/`, which need nothing from elsewhere. A page may include other files."""

import re
from pathlib import Path

from contract.answers import Answer

_FOLDER = Path(__file__).parent.parent / "page"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_FILES = {"/": "chat.html", "/prompt": "prompt.html", "/docs": "docs.html", "/lesson": "lesson.html"}

_INCLUDE = re.compile(rb" *<!-- include: (\S+) -->\n")

HEADERS = {"cache-control": "no-cache", "content-security-policy": "frame-ancestors 'self'"}
"""No other site may show a page in a frame, in which it could make its users click. The rest of a page's policy is in
its own <meta>, which has no frame-ancestors."""

PAGES = tuple(_FILES) + tuple(
    f"/page/{file.name}" for file in sorted(_FOLDER.iterdir()) if file.suffix in (".css", ".js")
)
"""The paths that a door answers with `page`."""


def page(path: str) -> Answer:
    """Answer with the file of one of `PAGES`."""
    file = _FOLDER / _FILES.get(path, path.rpartition("/")[2])
    body = _INCLUDE.sub(lambda found: (_FOLDER / found[1].decode()).read_bytes(), file.read_bytes())
    return Answer(200, body, _MEDIA_TYPES[file.suffix], HEADERS)
