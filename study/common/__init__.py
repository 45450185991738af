"""What the programs that measure, the lessons and the tests share, each thing once.

`client.py` loads a server and notes when each token comes, `launcher.py` runs a server as a process,
`http_servers.py` runs one inside this process, `engine.py` stands in for a model, `article.py` is the server that many
articles teach, and `text.py` lays out a piece of a text for a decoder.
"""
