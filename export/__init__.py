"""Torch side: families, compression, tracing, weights and graph surgery."""

if __name__ != "luvc_export.export":
    raise ImportError("import luvc_export.export not export: the top-level folder only holds the source")
