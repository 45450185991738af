"""From a request to token ids, and from token ids to an answer, without the model's weights.

`text_side` is the interface of both. Of a request, `prompts` renders (`templates`) and tokenizes the prompt, and
`grammar` compiles its grammar. Of an answer (`answer`), `output_text` detokenizes and ends the text, and
`response_parser` splits it into its parts.
"""
