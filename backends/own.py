"""Our own engine as a service: it computes in this process, on a worker thread."""

from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import EngineSettings
from interface.engine import EngineService

HONOURS = frozenset(
    (
        "model",
        "device",
        "dtype",
        "max_streams",
        "max_waiting",
        "context",
        "prefill_chunk",
        "compile",
        "compile_cache",
        "quantize",
        "speculate",
        "generation_config",
        "step_limit",
    )
)


def load(config: EngineSettings) -> EngineService:
    engine = load_engine(config)
    from inference.tensor_thread import on_tensor_thread  # it needs torch, which comes with the engine

    return SteppedService(engine, config.step_limit, on_tensor_thread)
