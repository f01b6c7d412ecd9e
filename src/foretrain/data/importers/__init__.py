"""Raw files of many kinds to one checked, documented corpus: `import_corpus` and what it tells about its work."""

from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.pipeline import ImportReport, import_corpus

__all__ = ["ImportOptions", "ImportReport", "import_corpus"]
