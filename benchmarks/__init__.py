"""How fast sitq is, beside its peers and beside the databases' drivers by hand: ``python -m benchmarks``."""
