"""What goes into an engine and what comes out of it: the ground floor of the house.

`requests` describes what is asked for, `events` what comes back, `errors` what can go wrong, and `engine` the two
protocols that connect them: the engine that is stepped, and the engine service that a driver talks to. Nothing here
imports torch, transformers, an event loop or another room, so every other room may import it.
"""
