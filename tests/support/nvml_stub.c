/* A driver library for tests: what libnvidia-ml.so.1 answers is read from the file NVML_STUB_STATE at each call.
 *
 * Lines are "key value". Of the whole: count, init (an error code), error (of the count: a driver that went away),
 * version, crash (a segmentation fault in the count), stderr (so many lines of noise, once), topology (the level of
 * every pair), p2p (the status of every pair), events (0: not supported), and of the last event xid.seq (it happens
 * when this rises), xid.gpu, xid.code, xid.type and xid.instance.
 *
 * Of one GPU, with its index before a dot: lost, error (every reading fails with this code), hang (1: no call
 * returns; a name such as temp or power: that one does not), name, uuid, and the readings and facts that follow by
 * the names below. no_NAME 1 makes NAME "not supported". Of its MIG slices, mig is 1, mig_slots how many places there
 * are, and "0.mig2_used" is used of the slice in place 2 of GPU 0, which is there if mig2_there is 1.
 * Compiled with -DOLD_DRIVER it lacks the symbols of newer drivers; with -DNO_THRESHOLD, -DNO_EVENTS, -DNO_MIG those.
 */
#define _GNU_SOURCE
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, LOST = 15, UNKNOWN = 999 };
enum { WHOLE = -1 };

typedef struct { int index, slot; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned int version; int margin; } Margin;
typedef struct { char legacy[16]; unsigned int domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { Device *device; unsigned long long type, data; unsigned int gpu_instance, compute_instance; } Event;
typedef struct {
    unsigned int sms, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mb;
} Attributes;
typedef struct {
    unsigned int field, scope;
    long long timestamp, latency;
    unsigned int type;
    int code;
    union { double d; unsigned int ui; unsigned long long ull; long long sll; int si; } value;
} Field;

static Device cards[16];
static Device slices[16][8];

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

static long long whole(const char *key, long long otherwise) {
    char value[256];
    return look_up(key, value, sizeof value) ? (long long)strtoull(value, NULL, 0) : otherwise;
}

static void name_key(Device *device, const char *what, char *key, size_t size) {
    if (device->slot == WHOLE) snprintf(key, size, "%d.%s", device->index, what);
    else snprintf(key, size, "%d.mig%d_%s", device->index, device->slot, what);
}

static long long of(Device *device, const char *what, long long otherwise) {
    char key[64];
    name_key(device, what, key, sizeof key);
    return whole(key, otherwise);
}

static int text(Device *device, const char *what, char *value, unsigned int size) {
    char key[64];
    name_key(device, what, key, sizeof key);
    return look_up(key, value, size);
}

static Device *card(Device *device) { return &cards[device->index]; }

/* Hang, or return the error that the device answers whatever it is asked for: "what". */
static int trouble(Device *device, const char *what) {
    char value[64], absent[64];
    while (text(card(device), "hang", value, sizeof value) && (!strcmp(value, "1") || !strcmp(value, what)))
        usleep(10000);
    if (of(card(device), "lost", 0) || of(device, "lost", 0)) return LOST;
    snprintf(absent, sizeof absent, "no_%s", what);
    if (of(device, absent, 0)) return NOT_SUPPORTED;
    return (int)of(device, "error", 0);
}

static int answer(Device *device, const char *what, long long otherwise, unsigned int *value) {
    int code = trouble(device, what);
    if (code == OK) *value = (unsigned int)of(device, what, otherwise);
    return code;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    for (int index = 0; index < 16; index++) {
        cards[index] = (Device){index, WHOLE};
        for (int slot = 0; slot < 8; slot++) slices[index][slot] = (Device){index, slot};
    }
    for (long long line = whole("stderr", 0); line > 0; line--) fprintf(stderr, "noise of the driver %lld\n", line);
    if (whole("stdout", 0)) { printf("noise on stdout\n"); fflush(stdout); }
    while (whole("init_hang", 0)) usleep(10000);
    return (int)whole("init", 0);
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "stub error"; }

int nvmlSystemGetDriverVersion(char *value, unsigned int size) {
    if (!look_up("version", value, size)) snprintf(value, size, "580.65.06");
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (whole("crash", 0)) *(volatile int *)0 = 1;
    *count = (unsigned int)whole("count", 1);
    return (int)whole("error", 0);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    int code;
    if (index >= (unsigned int)whole("count", 1)) return INVALID;
    *device = &cards[index];
    code = trouble(*device, "handle");
    return code == LOST || code == UNKNOWN ? code : OK;
}

int nvmlDeviceGetUUID(Device *device, char *value, unsigned int size) {
    int code = trouble(device, "uuid");
    if (code != OK || text(device, "uuid", value, size)) return code;
    if (device->slot == WHOLE) snprintf(value, size, "GPU-0000000%d", device->index);
    else snprintf(value, size, "MIG-0000000%d-%d", device->index, device->slot);
    return OK;
}

int nvmlDeviceGetName(Device *device, char *value, unsigned int size) {
    int code = trouble(device, "name");
    if (code != OK || text(device, "name", value, size)) return code;
    if (device->slot == WHOLE) snprintf(value, size, "NVIDIA GeForce RTX 3090");
    else snprintf(value, size, "NVIDIA A100-SXM4-80GB MIG 2g.20gb");
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    *major = (int)of(device, "major", 8);
    *minor = (int)of(device, "minor", 6);
    return trouble(device, "capability");
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    unsigned long long reserved = (unsigned long long)of(device, "reserved", 0);
    memory->total = (unsigned long long)of(device, "total", 24LL << 30);
    memory->used = (unsigned long long)of(device, "used", 1LL << 30) + reserved;
    memory->free = memory->total - memory->used;
    return trouble(device, "memory");
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *utilization) {
    utilization->memory = 0;
    if (of(device, "mig", 0) || device->slot != WHOLE) return NOT_SUPPORTED;
    return answer(device, "util", 7, &utilization->gpu);
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned int *temperature) {
    (void)sensor;
    return device->slot == WHOLE ? answer(device, "temp", 45, temperature) : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryBusWidth(Device *device, unsigned int *bits) { return answer(device, "bus", 384, bits); }
int nvmlDeviceGetNumGpuCores(Device *device, unsigned int *cores) { return answer(device, "cores", 10496, cores); }

int nvmlDeviceGetMaxClockInfo(Device *device, int kind, unsigned int *clock) {
    return kind == 2 ? answer(device, "max_memory", 9751, clock) : answer(device, "max_sm", 2100, clock);
}

int nvmlDeviceGetClockInfo(Device *device, int kind, unsigned int *clock) {
    return kind == 2 ? answer(device, "clock_memory", 405, clock) : answer(device, "clock_sm", 210, clock);
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned int *milliwatts) {
    return device->slot == WHOLE ? answer(device, "power", 25500, milliwatts) : NOT_SUPPORTED;
}
int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned int *mw) { return answer(device, "limit", 350000, mw); }
int nvmlDeviceGetPerformanceState(Device *device, unsigned int *pstate) { return answer(device, "pstate", 8, pstate); }

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    *millijoules = (unsigned long long)of(device, "energy", 5000);
    return trouble(device, "energy");
}

int nvmlDeviceGetPciInfo_v3(Device *device, Pci *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:6%d:00.0", device->index);
    return trouble(device, "pci");
}
int nvmlDeviceGetMaxPcieLinkGeneration(Device *device, unsigned int *gen) { return answer(device, "max_pcie", 4, gen); }
int nvmlDeviceGetMaxPcieLinkWidth(Device *device, unsigned int *lanes) { return answer(device, "max_lanes", 16, lanes); }
int nvmlDeviceGetCurrPcieLinkGeneration(Device *device, unsigned int *gen) { return answer(device, "pcie", 1, gen); }
int nvmlDeviceGetCurrPcieLinkWidth(Device *device, unsigned int *lanes) { return answer(device, "lanes", 8, lanes); }

/* A GeForce has no ECC unless the state says a count. */
int nvmlDeviceGetTotalEccErrors(Device *device, int kind, int counter, unsigned long long *count) {
    long long said = of(device, "ecc", -1);
    if (kind != 1 || counter != 0) return INVALID;
    *count = (unsigned long long)said;
    return said < 0 ? NOT_SUPPORTED : trouble(device, "ecc");
}

int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, unsigned int *level) {
    (void)other;
    *level = (unsigned int)whole("topology", 20);
    return trouble(one, "topology");
}

int nvmlDeviceGetP2PStatus(Device *one, Device *other, int index, unsigned int *status) {
    (void)other;
    if (index != 0) return INVALID;
    *status = (unsigned int)whole("p2p", 0);
    return trouble(one, "p2p");
}

/* nvlinks: how many; nvlinks_down: so many of them are not up; nvlink_to: the GPU at their ends, or -1 for a switch. */
int nvmlDeviceGetNvLinkState(Device *device, unsigned int link, unsigned int *state) {
    unsigned int links = (unsigned int)of(device, "nvlinks", 0);
    if (links == 0) return NOT_SUPPORTED;
    if (link >= links) return INVALID;
    *state = link >= (unsigned int)of(device, "nvlinks_down", 0);
    return trouble(device, "nvlink");
}
int nvmlDeviceGetNvLinkVersion(Device *device, unsigned int link, unsigned int *version) {
    (void)link;
    return answer(device, "nvlink_version", 4, version);
}
int nvmlDeviceGetNvLinkRemoteDeviceType(Device *device, unsigned int link, unsigned int *type) {
    (void)link;
    *type = of(device, "nvlink_to", -1) < 0 ? 2 : 0;
    return trouble(device, "nvlink");
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device *device, unsigned int link, Pci *pci) {
    (void)link;
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:6%d:00.0", (int)of(device, "nvlink_to", 9));
    return trouble(device, "nvlink");
}

int nvmlDeviceGetFieldValues(Device *device, int count, Field *fields) {
    int code = trouble(device, "fields");
    if (code != OK) return code;
    for (int each = 0; each < count; each++) {
        const char *what = NULL;
        long long value;
        switch (fields[each].field) {
        case 230: what = "recovery"; break;
        case 194: what = "slowdown_tlimit"; break;
        case 90: what = "nvlink_speed"; break;
        case 38: what = "nvlink_crc"; break;
        }
        value = what ? of(device, what, -1000) : -1000;
        fields[each].code = value == -1000 ? NOT_SUPPORTED : OK;
        if (fields[each].field == 194) {
            fields[each].type = 5;
            fields[each].value.si = (int)value;
        } else {
            fields[each].type = 1;
            fields[each].value.ui = (unsigned int)value;
        }
    }
    return OK;
}

#ifndef NO_THRESHOLD
int nvmlDeviceGetTemperatureThreshold(Device *device, int kind, unsigned int *temperature) {
    if (kind != 1) return INVALID;
    return answer(device, "threshold", 95, temperature);
}
#endif

#ifdef OLD_DRIVER
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
#else
int nvmlDeviceGetRemappedRows(Device *device, unsigned int *corrected, unsigned int *uncorrected,
                              unsigned int *pending, unsigned int *failure) {
    *corrected = (unsigned int)of(device, "remap_corrected", 0);
    *uncorrected = (unsigned int)of(device, "remap_uncorrected", 0);
    *pending = (unsigned int)of(device, "remap_pending", 0);
    *failure = (unsigned int)of(device, "remap_failure", 0);
    return of(device, "ecc", -1) < 0 ? NOT_SUPPORTED : trouble(device, "remap");
}

int nvmlDeviceGetMarginTemperature(Device *device, Margin *margin) {
    margin->margin = (int)of(device, "margin", 40);
    return trouble(device, "margin");
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    if (memory->version != 0x02000028) return 25;
    memory->total = (unsigned long long)of(device, "total", 24LL << 30);
    memory->used = (unsigned long long)of(device, "used", 1LL << 30);
    memory->reserved = (unsigned long long)of(device, "reserved", 0);
    memory->free = memory->total - memory->used - memory->reserved;
    return trouble(device, "memory");
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
#endif
    *reasons = (unsigned long long)of(device, "reasons", 4);
    return device->slot == WHOLE ? trouble(device, "reasons") : NOT_SUPPORTED;
}

#ifndef NO_MIG
int nvmlDeviceGetMigMode(Device *device, unsigned int *current, unsigned int *pending) {
    *current = *pending = (unsigned int)of(device, "mig", 0);
    return of(device, "mig", -1) < 0 ? NOT_SUPPORTED : trouble(device, "mig_mode");
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned int *count) { return answer(device, "mig_slots", 7, count); }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned int slot, Device **slice) {
    *slice = &slices[device->index][slot];
    return of(*slice, "there", 0) ? trouble(*slice, "handle") : NOT_FOUND;
}

int nvmlDeviceGetAttributes_v2(Device *device, Attributes *attributes) {
    memset(attributes, 0, sizeof *attributes);
    attributes->sms = (unsigned int)of(device, "sms", 28);
    attributes->gpu_slices = attributes->compute_slices = 2;
    attributes->memory_mb = (unsigned long long)of(device, "total", 24LL << 30) >> 20;
    return device->slot == WHOLE ? INVALID : trouble(device, "attributes");
}

int nvmlDeviceGetGpuInstanceId(Device *device, unsigned int *instance) {
    *instance = (unsigned int)(device->slot + 1);
    return device->slot == WHOLE ? INVALID : trouble(device, "instance");
}
#endif

#ifndef NO_EVENTS
static long long delivered;
static int changes = -1;

/* Wait without using the processor, as the real one does: what this costs is measured. */
static void await_change(int milliseconds) {
    char noticed[4096];
    struct pollfd waiting = {changes, POLLIN, 0};
    poll(&waiting, 1, milliseconds);
    while (read(changes, noticed, sizeof noticed) > 0) {}
}

static void watch_for_changes(void) {
    char folder[4096];
    const char *path = getenv("NVML_STUB_STATE");
    changes = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    snprintf(folder, sizeof folder, "%s", path ? path : "/");
    inotify_add_watch(changes, dirname(folder), IN_MOVED_TO | IN_CLOSE_WRITE);
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

int nvmlEventSetCreate(void **set) {
    *set = &delivered;
    watch_for_changes();
    delivered = whole("xid.seq", 0);
    return whole("events", 1) ? OK : NOT_SUPPORTED;
}
int nvmlEventSetFree(void *set) { (void)set; return OK; }

int nvmlDeviceGetSupportedEventTypes(Device *device, unsigned long long *types) {
    *types = (unsigned long long)of(device, "event_types", 0xc10f);
    return OK;
}
int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, void *set) {
    (void)set;
    return types & ~(unsigned long long)of(device, "event_types", 0xc10f) ? NOT_SUPPORTED : OK;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned int timeout) {
    (void)set;
    for (long long deadline = now() + timeout; now() < deadline; await_change((int)(deadline - now()))) {
        long long happened = whole("xid.seq", 0);
        if (happened > delivered) {
            delivered = happened;
            event->device = &cards[whole("xid.gpu", 0)];
            event->type = (unsigned long long)whole("xid.type", 8);
            event->data = (unsigned long long)whole("xid.code", 31);
            event->gpu_instance = event->compute_instance = (unsigned int)whole("xid.instance", 0xffffffff);
            return OK;
        }
    }
    return TIMEOUT;
}
#endif
