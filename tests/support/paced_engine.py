"""A scripted engine that takes its time over each step, for `--load tests.support.paced_engine:load`."""

import os
import time

from config import Config
from tests.support.scripted_engine import ScriptedEngine


class PacedEngine(ScriptedEngine):
    def __init__(self, seconds_per_step: float) -> None:
        super().__init__()
        self.seconds_per_step = seconds_per_step

    def step(self) -> bool:
        time.sleep(self.seconds_per_step)
        return super().step()


def load(config: Config) -> PacedEngine:
    """PACE is the seconds that a step takes."""
    return PacedEngine(float(os.environ.get("PACE", "0.02")))
