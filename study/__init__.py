"""Benchmarks, comparisons and simulations, and the code that they share with the lessons and the tests (`common`).

The programs, by topic:

    the doors       `compare` (with other ways to serve), `three_servers` (for the page at `/lesson`), `conformance` (to
                    the OpenAPI document), `clients` (real client libraries)
    under strain    `soak` (more than a server can do, for long), `chaos` (processes are killed)
    speed           `benchmarks`
    models          `architectures` (which ones of transformers are served)
    many machines   `scale` (Ray Serve), `routing` (a simulation)
"""
