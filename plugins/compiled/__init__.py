"""What nvcc makes of the kernels: compiled for every GPU we name, and a table of what each takes that may not grow."""
