"""``python -m sitq`` is the command ``sitq``."""

from .cli import main

if __name__ == "__main__":
    main()
