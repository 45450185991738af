"""The types that the rooms share: requests, events, errors, and the two protocols of an engine.

`requests` is what an engine is asked for, `events` what it answers, `errors` what it raises. `engine` has the protocol
of an engine that is stepped, and that of an engine service, which a driver talks to. `completion` is a whole answer, as
`POST /generate` and `Engine.generate` give it, `vitals` the state of a driver, and `kept` the protocol of what outlasts
a request; `calls` are the two kinds of call that a driver treats differently. Nothing here imports torch, transformers,
an event loop or another room, so every other room may import it.
"""
