"""Speed, memory and agreement measured against what attention replaces: what `sasa bench` runs."""

from sasa.analysis.speed.acceptance import Report
from sasa.analysis.speed.groups import GROUPS
from sasa.analysis.speed.measuring import run
from sasa.analysis.speed.rows import ROWS, choose
from sasa.analysis.speed.setting import Setting
from sasa.analysis.speed.timing import Spread, spread, take_turns

__all__ = ["GROUPS", "ROWS", "Report", "Setting", "Spread", "choose", "run", "spread", "take_turns"]
