"""The tests: `tests/<room>/` for each room, and what no single room answers for.

`doors` sends the same requests to all three applications, `clients` runs real client libraries against them, and
`scale` and `vllm` need Ray and vLLM (`make test-scale`, `make test-vllm`). Next to the folders: which room may import
which (`test_architecture`), what documents promise (`test_documents`) and how they are worded (`test_words`), the
Makefile, and the rules for the tests themselves (`test_suite`).
"""
