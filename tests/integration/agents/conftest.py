"""Fixtures of the agents' tests."""

from support.nvml_fixtures import driver, stub_folder, use_driver

__all__ = ["driver", "stub_folder", "use_driver"]
