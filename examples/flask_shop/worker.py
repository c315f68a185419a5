"""Runs the tasks of the shop, until SIGINT (Ctrl-C) or SIGTERM."""

import sitq
from shop import queue

if __name__ == "__main__":
    with queue.backend as backend:
        sitq.Worker(backend, concurrency=4).run()
