"""Makes the bundled model: its corpus, its tokenizer, its weights and its examination.

The pipeline is four programs, run in this order (`make model` runs them all):

    python -m training.corpus      # writes training/build/corpus.jsonl, always the same bytes
    python -m training.tokenizer   # writes the byte-level BPE tokenizer into bundled_model/
    python -m training.train       # writes the weights into bundled_model/; resumes where it stopped
    python -m training.evaluate    # the table of held-out cases; --card puts it into the model card

Nothing is downloaded: every text comes from templates and sentences in this folder. The other modules:

    documents   `arithmetic`, `poems`, `recitals`, `smalltalk`, `stories`, `topics`, `unknown`
    wordings    `phrasings`, `words`; `noise` makes them as people type
    training    `rows` of token ids; `settings`: sizes, places and seeds
    examination `split` keeps its questions out of the training text
"""
