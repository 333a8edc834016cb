"""Speed, memory and agreement measured against what attention replaces: what `sasa bench` runs."""

from sasa.speed.acceptance import Report
from sasa.speed.groups import GROUPS
from sasa.speed.measuring import run
from sasa.speed.rows import ROWS, choose
from sasa.speed.setting import Setting
from sasa.speed.timing import Spread, spread, take_turns

__all__ = ["GROUPS", "ROWS", "Report", "Setting", "Spread", "choose", "run", "spread", "take_turns"]
