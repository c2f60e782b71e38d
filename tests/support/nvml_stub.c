/* A driver library for tests: what libnvidia-ml.so.1 answers is read from the file NVML_STUB_STATE at each call.
 *
 * Lines are "key value". Of the whole: count, init (an error code). Of one GPU, with its index before a dot: lost,
 * error (every reading fails with this code), unified (memory is not supported), hang (a call does not return while
 * it is 1), name, uuid, used, util, temp, reasons, and no_util, no_temp (not supported).
 * Compiled with -DOLD_DRIVER it lacks the symbols of newer drivers; with -DNO_THRESHOLD the threshold too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };

typedef struct { int index; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;

static Device devices[16];

static int look_up(const char *key, char *value, size_t size) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int found = 0;
    size_t length = strlen(key);
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static unsigned long long whole(const char *key, unsigned long long otherwise) {
    char value[256];
    return look_up(key, value, sizeof value) ? strtoull(value, NULL, 0) : otherwise;
}

static unsigned long long of(Device *device, const char *what, unsigned long long otherwise) {
    char key[64];
    snprintf(key, sizeof key, "%d.%s", device->index, what);
    return whole(key, otherwise);
}

static void text(Device *device, const char *what, const char *otherwise, char *value, unsigned int size) {
    char key[64];
    snprintf(key, sizeof key, "%d.%s", device->index, what);
    if (!look_up(key, value, size)) snprintf(value, size, otherwise, device->index);
}

static int trouble(Device *device) {
    while (of(device, "hang", 0)) usleep(10000);
    if (of(device, "lost", 0)) return LOST;
    return (int)of(device, "error", 0);
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return (int)whole("init", 0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "stub error"; }
int nvmlSystemGetDriverVersion(char *value, unsigned int size) { snprintf(value, size, "580.65.06"); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = (unsigned int)whole("count", 1); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    if (index >= whole("count", 1)) return NOT_FOUND;
    devices[index].index = (int)index;
    *device = &devices[index];
    return trouble(*device) == LOST ? LOST : OK;
}

int nvmlDeviceGetUUID(Device *device, char *value, unsigned int size) {
    int code = trouble(device);
    if (code == OK) text(device, "uuid", "GPU-0000000%d", value, size);
    return code;
}

int nvmlDeviceGetName(Device *device, char *value, unsigned int size) {
    text(device, "name", "NVIDIA GeForce RTX 3090", value, size);
    return trouble(device);
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    *major = 8;
    *minor = 6;
    return trouble(device);
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    memory->total = 24ULL << 30;
    memory->used = of(device, "used", 1ULL << 30);
    memory->free = memory->total - memory->used;
    if (of(device, "unified", 0)) return NOT_SUPPORTED;
    return trouble(device);
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *utilization) {
    utilization->gpu = (unsigned int)of(device, "util", 7);
    utilization->memory = 0;
    if (of(device, "no_util", 0)) return NOT_SUPPORTED;
    return trouble(device);
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned int *temperature) {
    (void)sensor;
    *temperature = (unsigned int)of(device, "temp", 45);
    if (of(device, "no_temp", 0)) return NOT_SUPPORTED;
    return trouble(device);
}

int nvmlDeviceGetMemoryBusWidth(Device *device, unsigned int *bits) { *bits = 384; return trouble(device); }

int nvmlDeviceGetMaxClockInfo(Device *device, int kind, unsigned int *clock) {
    *clock = kind == 2 ? 9751 : 2100;
    return trouble(device);
}

#ifndef NO_THRESHOLD
int nvmlDeviceGetTemperatureThreshold(Device *device, int kind, unsigned int *temperature) {
    *temperature = kind == 1 ? 95 : 98;
    return trouble(device);
}
#endif

#ifdef OLD_DRIVER
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
#else
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
#endif
    *reasons = of(device, "reasons", 4);
    return trouble(device);
}
