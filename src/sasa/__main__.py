"""`python -m sasa`: the command `sasa`, as torchrun's `-m` wants it."""

from sasa.cli.main import main

main()
