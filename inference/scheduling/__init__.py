"""What a step works on, and what belongs to one sequence. Nothing here knows a tensor.

`scheduler` gives out slots (`cache_manager`) and prompt tokens (`prefill_budget`); a `sequence` holds its own state.
"""
