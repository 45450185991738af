"""Engine services: engines behind the protocol that the drivers know, `interface.engine.EngineService`.

`load` chooses which one the settings ask for; each is a module that is imported only then. `own` is our engine: loaded
by `own_engine`, and carried on a worker thread of this process by `stepped`. Neither a door nor a driver can tell
which one it has.

    an engine in this process       `own`, `own_engine`, `stepped`; `vllm_engine`
    in another process              `socket_service` here and `host` there, `wire` and `channel` between them, `shares`
    behind another server           `openai_server` with its `openai_dialects`, `sglang_server`, over `remote`
    what those elsewhere share      `relayed`, `token_relay`, `said`
"""
