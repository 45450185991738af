"""A long run above the server's capacity, with misuse and failing steps: `make soak`."""
