"""The child process that calls NVML. It imports the standard library and pynvml alone: what it imports is its memory.

So there are no dataclasses, no ``typing`` at run time and no pydantic here; everything it says is JSON lines, and what
they mean is decided by the parent. The semantics are those of NVIDIA's NVML reference.
"""
