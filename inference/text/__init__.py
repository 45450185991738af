"""From a request to token ids, and from token ids to an answer. Nothing here knows the model's weights.

`text_side` is the way in: `prompts` renders (`templates`) and tokenizes, and `grammar` compiles. `answer` is the way
out: `output_text` detokenizes and ends the text, and `response_parser` splits it into its parts.
"""
