"""Real client libraries, unmodified, against both doors on a real uvicorn.

    make clients                            # builds an environment for them, runs them all, writes docs/clients.md
    python -m study.clients --model M.gguf  # on another model

A `try_*` program is one client: it is started in the clients' own environment with the server's address and the model's
name, and prints a line of JSON for each thing that it tried (see `checks`). `lm_eval` imitates that library,
and `extract_vllm_bench` takes the requests of another one out of gigabytes.
"""
