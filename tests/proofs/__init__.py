"""Proofs that take too long for every check, each with a short form among the tests: ``python tests/proofs``."""
