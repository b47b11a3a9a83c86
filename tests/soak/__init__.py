"""Long runs against a real server, with an oracle: `make soak`."""
