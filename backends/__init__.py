"""Engine services: engines behind `interface.engine.EngineService`, the protocol that drivers use.

`load` chooses the service that the settings ask for; each is a module that is imported only then. `own` is our engine:
`own_engine` loads it, where need be in spite of `missing_folders`, and `stepped` runs it on a worker thread of this
process. Neither a door nor a driver can tell which one it has.

    an engine in this process       `own`, `own_engine`, `stepped`; `vllm_engine`
    in another process              `socket_service` here with its `shares`; `host`, `host_requests` and `host_worker`
                                    there; `wire` and `channel` between them
    behind another server           `openai_server` with its `openai_dialects`, `openai_messages`, `openai_chunks`
                                    and `split_characters`; `sglang_server`; `remote` for both
    shared by engines elsewhere     `relayed`, `token_relay`, `replies`
    shared by all                   `threads`, `throttled_log`
    kept responses                  `kept_in_memory`, in `shared_blocks`
"""
