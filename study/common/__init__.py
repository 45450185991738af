"""Code that the benchmarks, the lessons and the tests share.

`client.py` loads a server and notes when each token comes, `launcher.py` runs a server as a process,
`http_servers.py` runs one inside this process, `scripted_workers.py` is a door in several, `engine.py` stands in for a
model, `article.py` is the server that many articles teach, `text.py` lays out a piece of a text for a decoder,
`document.py` writes tables into documents, and `arguments.py` makes command lines.
"""
