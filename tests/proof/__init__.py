"""The model-based proof: random histories of the real code against an oracle, and its mutants."""
