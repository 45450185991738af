"""What the chooser in C++ is compiled from. Without torch: its compiler starts before that is imported."""

from pathlib import Path

from inference.cpp.build import Unit

CHOOSER = Unit(Path(__file__).with_name("choose.cpp"), {"BF16": 0})
