"""Everything at once, for long: whether the server comes out of it as it went in. `make soak`."""
