"""Import of raw files of many kinds into a corpus: `import_corpus`, its options and its report."""

from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.pipeline import import_corpus
from foretrain.data.importers.preview import ImportPreview, import_preview, preview_text
from foretrain.data.importers.report import ImportReport

__all__ = ["ImportOptions", "ImportPreview", "ImportReport", "import_corpus", "import_preview", "preview_text"]
