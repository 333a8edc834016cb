"""Export of networks to files that run elsewhere: torch.export, AOTInductor, ONNX, or the weights alone."""

from sasa.export.export import TOLERANCE, Exported, export
from sasa.export.formats import FORMATS
from sasa.export.load import Loaded, load

__all__ = ["FORMATS", "TOLERANCE", "Exported", "Loaded", "export", "load"]
