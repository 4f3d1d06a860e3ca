"""Torch side: families, compression, tracing, weights and graph surgery."""

if __name__ != "luvc_export.export":
    raise ImportError("import luvc_export.export instead of export: the top-level folder is only where the source lies")
