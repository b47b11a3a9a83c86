"""The services of the API: decode, call, encode."""
