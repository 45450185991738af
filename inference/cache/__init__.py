"""The tensors of a step: keys and values in their slots, the tokens laid out as a batch, and attention over both.

keys and values     `kv_cache`, over a `storage`: `rows`, `pages` with their `page_table`, or `gpu_pages` on
                    `reserved` addresses; `sizes` says how long they are; next to rows there may be `states`
a batch             `batch`, made by `layout`; `visibility` says what a token may look at
attention           `attention`; `attention_modules` puts it into transformers' models
"""
