"""A long run above the server's capacity, with misuse and failing steps: `make soak`.

`server` is a door on a model some of whose steps raise, `clients` use and misuse it, `prober` asks for its health, and
`findings` says what must hold in the end.
"""
