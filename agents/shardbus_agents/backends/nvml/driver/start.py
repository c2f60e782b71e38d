"""Where the child begins. On a host without NVIDIA's library it ends here: it is started each minute to see."""

import ctypes
import os

_LIBRARY_NOT_FOUND = 12  # pynvml's NVML_ERROR_LIBRARY_NOT_FOUND, which it would say after 25 ms of importing


def start() -> None:
    """Load what pynvml will load, then go on."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        if "no such file" in str(error).lower():
            words = f'{{"kind": "unavailable", "failure": [{_LIBRARY_NOT_FOUND}, "not found"]}}\n'
            os.write(1, words.encode())
            os._exit(0)
    from shardbus_agents.backends.nvml.driver.main import main  # noqa: PLC0415 - see above

    main()
