"""NVIDIA GPUs by NVML, asked in a child process: ``driver`` is the child, ``sampler`` its watchdog."""
