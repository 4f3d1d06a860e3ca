"""TensorRT and TensorRT-RTX engines: targets, builder, inspection."""

if __name__ != "luvc_export.engines":
    raise ImportError("import luvc_export.engines instead of engines: the top-level folder is only where the source lies")
