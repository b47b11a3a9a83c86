"""Random histories of sessions on two real servers, held against an oracle in float64."""
