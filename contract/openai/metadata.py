"""What a client may write on things that are kept for it: a few short texts, each with a name."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from contract.bodies import LenientBody
from contract.requests import shortened

MOST_METADATA = 16
MOST_KEY, MOST_VALUE = 64, 512
"""Characters of a name in the metadata, and of its value."""
ABOUT_METADATA = f"Up to {MOST_METADATA} texts, each with a name."


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata that may be stored.

    Raises:
        ValueError: it is too much, or not of texts.
    """
    if len(metadata) > MOST_METADATA:
        raise ValueError(f"Expected at most {MOST_METADATA} of them")
    for name, value in metadata.items():
        if not isinstance(value, str) or len(value) > MOST_VALUE or len(name) > MOST_KEY:
            raise ValueError(
                f"Expected texts of at most {MOST_VALUE} characters, under names of at most {MOST_KEY}; "
                f"got something else under {str(shortened(name))!r}"
            )
    return dict(metadata)


Metadata = Annotated[dict[str, Any], AfterValidator(check_metadata)]


class MetadataBody(LenientBody):
    """Metadata in place of those that are there."""

    metadata: Metadata = Field(default_factory=dict, description=f"{ABOUT_METADATA} They replace those that are there.")
