"""Pages of a list, as OpenAI's clients ask for them: how many, in which order, and after which item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from contract.answers import Wire
from contract.refusals import Refusal
from contract.requests import shortened


@dataclass(frozen=True, slots=True)
class ItemPage(Wire):
    """A page of items that have ids."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


Page = TypeVar("Page", bound=ItemPage)


class PageQuery(BaseModel):
    """Which items come, and in which order. Other parameters, such as `include`, change nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(default=20, ge=1, le=100, description="The most items of one answer.")
    order: Literal["asc", "desc"] = Field(default="desc", description="`desc` begins with the newest item.")
    after: str = Field(default="", description="The id of the item after which the answer begins, in this order.")

    def page_of(self, ids: Sequence[str], what: str) -> tuple[list[str], bool]:
        """Return the ids that come, and whether there are more of them.

        Args:
            ids: those of all items, the oldest first.
            what: a name for one of them.

        Raises:
            Refusal: 400, there is no item with the id `after`.
        """
        ordered = list(ids) if self.order == "asc" else list(reversed(ids))
        start = self._place(ordered, what) + 1 if self.after else 0
        page = ordered[start : start + self.limit]
        return page, start + len(page) < len(ordered)

    def items_page(self, kind: type[Page], items: Sequence[Mapping[str, Any]], what: str) -> Page:
        """Return the page of these items, the oldest first. Raises what `page_of` raises."""
        by_id = {item["id"]: dict(item) for item in items}
        page, has_more = self.page_of(list(by_id), what)
        return kind("list", [by_id[id] for id in page], *ends(page), has_more)

    def _place(self, ids: list[str], what: str) -> int:
        if self.after not in ids:
            message = f"after: Expected the id of {what}, got {str(shortened(self.after))!r}"
            raise Refusal(400, message, param="after")
        return ids.index(self.after)


def ends(ids: Sequence[str]) -> tuple[str | None, str | None]:
    """The first and the last id of a page; None if it is empty."""
    return (ids[0], ids[-1]) if ids else (None, None)
