"""What is asked of a GPU how often: calls take the driver's global lock, and some take milliseconds.

Never asked here: process lists (4.5 ms, and private), PCIe throughput (blocks 40 ms), fans.
"""

from __future__ import annotations

from shardbus_agents.backends.nvml.driver.library import DeviceGoneError, nvml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shardbus_agents.backends.nvml.driver.library import Answers

_NO_V2 = (
    nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    nvml.NVML_ERROR_INVALID_ARGUMENT,
)

_NVLINK_ERRORS = (
    nvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
    nvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
    nvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
    nvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
)

FAST = ("memory", "utilization", "temperature", "reasons")
SHARED = (
    "temperature",
    "reasons",
    "power",
    "clock_sm",
    "clock_memory",
    "pstate",
    "margin",
    "pcie_generation",
    "pcie_width",
    "ecc_uncorrected",
    "remapped_rows",
    "recovery_action",
)
"""What a MIG slice has from its card."""


def ask_memory(answers: Answers, handle: Any) -> None:
    """Keep total, used and reserved bytes; older drivers count what is reserved as used."""
    memory = answers.ask("memory", "nvmlDeviceGetMemoryInfo_v2", handle)
    if memory is not None:
        answers.values["memory"] = (memory.total, memory.used, memory.reserved)
    elif answers.failures["memory"][0] in _NO_V2:
        memory = answers.ask("memory", "nvmlDeviceGetMemoryInfo", handle)
        if memory is not None:
            answers.values["memory"] = (memory.total, memory.used, None)


def ask_fast(answers: Answers, handle: Any) -> None:
    """Ask what changes from second to second: at each tick."""
    ask_memory(answers, handle)
    utilization = answers.ask("utilization", "nvmlDeviceGetUtilizationRates", handle)
    if utilization is not None:
        answers.values["utilization"] = utilization.gpu
    ask_heat(answers, handle)


def ask_heat(answers: Answers, handle: Any) -> None:
    """Ask for the temperature, and for what holds the clocks down."""
    answers.ask("temperature", "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU)
    answers.ask("reasons", "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if answers.failures.get("reasons", (0,))[0] == nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
        # Its name before driver 535.
        answers.ask("reasons", "nvmlDeviceGetCurrentClocksThrottleReasons", handle)


def ask_medium(answers: Answers, handle: Any) -> None:
    """Ask for power and clocks: power is the most expensive of the usual questions."""
    answers.ask("power", "nvmlDeviceGetPowerUsage", handle)
    answers.ask("energy", "nvmlDeviceGetTotalEnergyConsumption", handle)
    answers.ask("clock_sm", "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM)
    answers.ask("clock_memory", "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM)
    answers.ask("pstate", "nvmlDeviceGetPerformanceState", handle)
    answers.ask("margin", "nvmlDeviceGetMarginTemperature", handle)


def ask_slow(answers: Answers, handle: Any) -> None:
    """Ask for what changes by a fault: links, errors of memory, what the driver wants done."""
    answers.ask("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", handle)
    answers.ask("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", handle)
    uncorrected, volatile = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    answers.ask("ecc_uncorrected", "nvmlDeviceGetTotalEccErrors", handle, uncorrected, volatile)
    answers.ask("remapped_rows", "nvmlDeviceGetRemappedRows", handle)
    answers.field("recovery_action", handle, nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
    if answers.values.get("nvlinks"):
        answers.field("nvlink_errors", handle, *_NVLINK_ERRORS)


def check_answers(answers: Answers) -> None:
    """Raise DeviceGoneError for a GPU that answers nothing, and not because it does not offer it."""
    normal = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    failures = [answers.failures[name] for name in FAST if name in answers.failures]
    errors = [failure for failure in failures if failure[0] not in normal]
    if len(failures) == len(FAST) and errors:
        raise DeviceGoneError(errors[-1])
