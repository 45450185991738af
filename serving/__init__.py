"""Everything between a door and an engine: drivers, streams, shutdown, limits, and how a server is started and watched.

The modules, by topic:

    generations     `driver` (the ASGI doors), `sync_driver` (callers that block), `generation`, `mailbox`,
                    `following`, `base_driver`, `open_generations`, `status`, `blocking_lexicon`
    requests        `gate`, `access`, `quotas`, `cors`, `exchanges`, `websockets`: the layers around a door; `asgi`
    connections     `connection`, `protocol`, `file_limit`: limits on uvicorn's connections; `wsgi_server`
    processes       `quiet_start`, `command_line`, `flags`, `standard_streams`, `demo`, `supervised`, `process`,
                    `shutdown`
    workers         `workers`, `engine_process`, `engine_keeper`, `sign_of_life`: several processes over one engine
    kept responses  `kept`: each client's own, in this process or in that of the engine
    records         `logs`, `log_stream`, `request_log`, `metrics`, `tracing`, `transcript`
"""
