"""The choice of what a step works on, and the state of a sequence. Nothing here uses tensors.

`scheduler` gives out slots (`cache_manager`) and prompt tokens (`prefill_budget`); a `sequence` holds its own state.
`sample_args` are what the sampler needs for each row of a step. `bans` are the tokens that must not come next, some of
them because of `repeats`; `speculation` guesses the next tokens.
"""
