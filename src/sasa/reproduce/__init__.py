"""The paper's tables as training runs: rows, recipes, the commands to run them, and what came of it."""
