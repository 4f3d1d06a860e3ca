"""TensorRT and TensorRT-RTX engines: targets, builder, inspection."""

if __name__ != "luvc_export.engines":
    raise ImportError("import luvc_export.engines not engines: the top-level folder only holds the source")
