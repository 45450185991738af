"""Records the messages between a server and an application, one by one.

    ENGINE_TRANSCRIPT=1 uvicorn raw_asgi:app
    python raw_asgi.py --transcript
    curl http://127.0.0.1:8000/transcript/my-id.json

Off by default, because prompts are private. `asgi.py` watches an ASGI application, `wsgi.py` a WSGI one; `records.py`
keeps what they see, within bounds, and `terminal.py` prints it as it passes. Nothing is imported here, so that the WSGI
door need not import an event loop.
"""
