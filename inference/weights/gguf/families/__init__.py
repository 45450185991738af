"""Families of architectures: how their GGUF files name and change what transformers' models have.

Each module has a table, `FAMILY`, of rows by the names in the files: `llama`, `llama4`, `qwen`, `gemma`, `gemma4`,
`phi`, `glm`, `bailing`, `cohere`, `dbrx`, `olmo`, `gpt`, `gpt_oss`, `minicpm3`, `mixtures` and `sigmoid_mixtures`;
`layer_norms`, of several makers; `others`, each alone in its kind; and `lfm2`, `qwen_next` and `mamba`, whose layers
keep states. What these have in common is in `states`.
"""
