"""What the kernels move and compute, by formulas that the emulation's counts prove, and what that takes at best."""
