"""Access: who calls, and what they may do.

`caller` is who; `rules` says which scope each RPC needs; `gate` lets calls in or refuses them, and
`opening` makes it from the settings. What a credential is good for is a `grant`; they are verified
by `key_verifier` (`api_key`, `key_file`), `token_verifier` (`signing_keys`) and `spiffe`.
"""
