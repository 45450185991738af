"""What test modules share: fakes, servers made by hand, and random input.

The modules, by topic:

    doors           `serving` puts a door in front of a scripted engine, and is where to begin; `asgi_client` and
                    `wsgi_client` play the server, `by_message` step by step; `servers` and `scripted_gunicorn` are
                    real servers, `http_client` is a client on a raw socket
    drivers         `driving`, `sharing` (an engine for several workers), `slow_tokenizer`, `probes` and `faults`
    other engines   `fake_vllm`, `fake_sglang` and `fake_completions` with their `event_stream`; `odd_server`;
                    `relaying` puts a driver in front
    the contract    `openai_answers`, `anthropic_requests`, `anthropic_answers`, `wrong_bodies`, `openapi`, and
                    `typed_samples` of what the SDKs send
    models          `tiny_models`, `native_models`, `smollm2`; `quantized_matrices`, `triton_interpreter`; `compilers`,
                    and `units_once`, so that none compiles a unit twice
    checkpoints     `checkpoint_folders`, `hub`, and `mutations` to damage them; `gguf_files`, written of those
                    in `gguf_models` and `gguf_llamas` by the rules in `gguf_families`, `gguf_mixtures`,
                    `gguf_gemma`, `gguf_gpt` and `gguf_states`, as `gguf_rules` has them; those of
                    `gguf_state_models` keep states
    text            `chat_tokenizers`, `parsed_answers`, `answer_parts`, `json_schemas`
    pages           `browser`, `page_helpers`
    all of them     `imports`, `own_copy`, `idle_time` (on a busy machine), and `threads`, of which there are no more
"""
