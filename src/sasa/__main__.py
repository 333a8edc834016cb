"""`python -m sasa` runs the command `sasa`; `torchrun -m sasa` needs this."""

from sasa.cli.main import main

main()
