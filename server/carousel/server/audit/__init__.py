"""Audit logs: what went into a session, chained by hashes, so that its outputs can be reproduced.

`recorder` stands in the engine and hands over what happened; `writer` brings it into `files` in a
thread of its own; `entry` is the format, `folder` says where files lie; `reader` verifies a log,
`replay` computes it again; `retention` deletes what was kept long enough.
"""
