"""Run proofs in full: all of them, or one by its name with options of its own.

python tests/proofs
python tests/proofs simulation --seed 17
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

# The tests' own modules stand beside this package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

PROOFS: dict[str, str] = {
    "matrix": "proofs.matrix",
    "model": "proofs.model",
    "orders": "proofs.orders",
    "simulation": "proofs.simulation",
    "soak": "proofs.soak",
    "transactional": "proofs.transactional",
}
"""By name, the module whose ``main(arguments)`` runs the proof and returns the exit code."""


def main(arguments: list[str]) -> int:
    if not arguments:
        return max([main([name]) for name in PROOFS])
    name, *options = arguments
    if name not in PROOFS:
        print(f"there is no proof {name!r}; there are {', '.join(PROOFS)}")
        return 2
    print(f"===== {name}", flush=True)
    code: int = importlib.import_module(PROOFS[name]).main(options)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
