"""Front ends: processes that share the gRPC port and reach the one engine's process.

A front end does TLS, credentials, limits of connections, parsing and answering. Steps go through
rings in shared memory (`link`, `records`), all other calls over a socket in a private folder
(`relay`), where the engine's process serves as it does alone. `supervisor` starts front ends and
keeps them up; `process` is one of them.
"""
