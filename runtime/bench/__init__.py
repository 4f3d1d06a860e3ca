"""What a bundle costs on this machine: interleaved timings, memory, roofline, profile. Needs the runtime alone."""
