"""Where tasks and results are kept: the contract, and a file for each database."""
