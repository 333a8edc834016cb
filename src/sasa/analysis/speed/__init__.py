"""Speed, memory and agreement measured against what attention replaces: what `sasa bench` runs."""

from sasa.analysis.speed.acceptance import ROWS, Report, choose, run
from sasa.analysis.speed.setting import Setting
from sasa.analysis.speed.timing import Spread, spread, take_turns

__all__ = ["ROWS", "Report", "Setting", "Spread", "choose", "run", "spread", "take_turns"]
