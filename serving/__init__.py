"""Carries generations between a door and an engine: drivers, streams, shutdown, and everything around a server.

`driver` is for the two ASGI doors, `sync_driver` for callers that block. `generation` is the life of one stream,
`shutdown` the end of all of them. `command_line`, `demo`, `logs` and `transcript` surround a server.
"""
