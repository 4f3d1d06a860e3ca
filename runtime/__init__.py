"""Light runtime: numpy and one back-end, never torch or transformers."""

if __name__ != "luvc_export.runtime":
    raise ImportError("import luvc_export.runtime instead of runtime: the top-level folder is only where the source lies")
