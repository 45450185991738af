"""Loads a model from its files.

`locate` finds them, on the disk or on the `hub`; `folder` and `gguf` read the two kinds of them behind the interface in
`source`; `checkpoint` loads a model through it. `llama` is the neutral form of the weights that the fast decoders
compute from; `take_apart` makes it of a model of transformers, and `variation` says how such models differ.
The other modules, by topic:

    reading         `safetensors_header`, `pickled`, `generation_settings`; `text_only` reads no weights
    checks          `purpose`, `config_numbers`, `weight_checks`, `folder_tokenizer`, `tokenizer_class`;
                    `found_instead`, `lacking` and `tokenizer_settings` word the errors
    transformers    `model_classes` load its models; `usable_settings` have the forms that it takes; it is imported
                    through `lean_transformers`, and kept `quiet`
    tensors         `quantized` matrices, in one of the `formats`; `rotary`: the angles
    memory          `memory`: how much is free, from which the `context` follows, and of what `state_sizes` knows;
                    `memory_ahead` allocates it; `other_senses` takes out what images and sounds would need
"""
