"""What the chooser in C++ is compiled from. Without torch: its compiler starts before that is imported."""

from collections.abc import Mapping
from pathlib import Path

CHOOSER = Path(__file__).with_name("choose.cpp")
CHOOSER_DEFINITIONS: Mapping[str, int] = {"BF16": 0}
"""The macros."""
