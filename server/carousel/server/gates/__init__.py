"""The inside of the gates: what sessions remember and forget, seen beside the engine.

`sampler` stands in the engine, copies what some riders of a turn brought, and lets a thread of
its own run them again with the reference cells (`activity`); `window` keeps the latest samples and
holds them against the version's baseline; `metrics` are what comes of it. `watch` keeps what the
steps of single sessions brought; `inspection` takes a `glimpse` of a session for whoever asks, and
`show` says what is in it.
"""
