"""Raw files of many kinds to one checked, documented corpus: `import_corpus` and what it tells about its work."""

from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.pipeline import import_corpus
from foretrain.data.importers.report import ImportReport

__all__ = ["ImportOptions", "ImportReport", "import_corpus"]
