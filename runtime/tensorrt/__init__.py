"""TensorRT and TensorRT-RTX as back-end: engines, execution slots, caches that stay on the GPU."""
