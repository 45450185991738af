"""The choice of what a step works on, and the state of a sequence. Nothing here uses tensors.

`scheduler` gives out slots (`cache_manager`) and prompt tokens (`prefill_budget`); a `sequence` holds its own state.
`sample_args` are what the sampler needs for each row of a step, with the tokens that `bans` exclude, for which
`repeats` knows what came before; `speculation` guesses the next tokens.
"""
