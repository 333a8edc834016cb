"""`sasa ARGUMENTS` that waits at a step until the test kills it.

Run as `python held_command.py STEP ARGUMENTS`, alone or by torchrun.
"""

import sys
import time

from processes import HANGING
from sasa.cli.main import main
from sasa.training.loop import Trainer

last, take_step = int(sys.argv.pop(1)), Trainer.train_step


def held(trainer, *args):
    if trainer.step == last:
        time.sleep(HANGING)  # until it is killed
    return take_step(trainer, *args)


Trainer.train_step = held
main()
