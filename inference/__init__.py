"""The engine's parts: one noun, one file, one owner. `engine.py` puts them together.

`scheduling` needs no torch, and decides what a step works on; `cache`, `decoders` and `sampling` compute it. `cpp`
compiles what they have in C++. `weights` brings a model from its files, and `text` turns requests into token ids and
token ids into answers.

    a step          `model_runner` computes a schedule, on the one `tensor_thread`; `choosers` says what chooses its
                    tokens; `transfer` copies to a GPU
    callers         `turns` lets threads that wait for events step the engine, one at a time
    the start       `early_compilers` begin while libraries are imported; `priorities` of threads; the limits of
                    `control_groups`; the `affinity` of threads to processors
    by hand         `check`: `python -m inference.check MODEL` says what the server would do with it
    shared          `messages`: the errors of libraries in a line of our own
"""

import os

SPINS = 10_000
"""How often a waiting thread checks whether the others are done before it sleeps: about 0.2 ms. OpenMP's own number is
300,000, a scheduler's whole time slice: next to other programs, the threads that wait then take the cores from those
that they wait for. On two cores with two other programs that made a step six times as long."""

# OpenMP reads it once, when torch is imported. What the user has set, stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
