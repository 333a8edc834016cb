"""Write the configs of the paper's tables: python configs/make.py

Those of one table differ in a few words each, and their headers quote numbers that the library counts, so they are made
and not typed. Those of configs/bccd/ are written by hand.
"""

from pathlib import Path

from sasa.reproduce.detection_documents import detection_documents
from sasa.reproduce.documents import documents

HERE = Path(__file__).parent

if __name__ == "__main__":
    for document in [*documents(), *detection_documents()]:
        path = HERE / document.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document.text())
