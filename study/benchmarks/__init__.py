"""Measurements, each a command of the Makefile. They print ratios; nothing here is a test.

the doors           `bench_transport` with its `transport_servers` and `timed_server`; `bench_chat`, `bench_workers`
the engine          `bench_engine`, with its `engine_loads`, its `engine_scenes` and a `picture`; `bench_growth`,
                    `bench_gguf` with a `gguf_checkpoint`; `bench_start`, `bench_cuda`
parts of a step     `bench_sampling`, `bench_draw` (on a GPU), `bench_grammar`, `bench_speculation`
quality             `perplexity` (of the bundled model), `loss` with `saved_log_probs` (of a real one)
models to measure   `shapes`, `gpt_oss_file`
"""
