/* A cable of a given length: two TUN interfaces in two network namespaces, and every packet that enters one leaves the
 * other a fixed time later. The rate is the interfaces' queueing discipline's business.
 *
 *     delay_line NAMESPACE_A NAMESPACE_B INTERFACE MICROSECONDS_A_TO_B MICROSECONDS_B_TO_A
 *
 * Says "ready" when both interfaces are there; they go with this process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = 65536, SLOTS = 1 << 16 };

struct packet {
    int64_t due;
    int length;
    char *bytes;
};

struct direction {
    int from, to;
    int64_t delay;
    unsigned head, tail;
    struct packet ring[SLOTS];
};

static struct direction directions[2];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "delay_line: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int tun_in(const char *name, const char *interface) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int space = open(path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET) < 0) die(path);
    close(space);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (fd < 0) die("/dev/net/tun");
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0) die("TUNSETIFF");
    return fd;
}

static void take_in(struct direction *d) {
    static char buffer[LONGEST];
    while (d->head - d->tail < SLOTS) {
        ssize_t length = read(d->from, buffer, sizeof buffer);
        if (length <= 0) return;
        struct packet *p = &d->ring[d->head % SLOTS];
        p->bytes = malloc((size_t)length);
        if (!p->bytes) die("malloc");
        memcpy(p->bytes, buffer, (size_t)length);
        p->length = (int)length;
        p->due = now() + d->delay;
        d->head++;
    }
}

static void let_out(struct direction *d) {
    while (d->tail != d->head && d->ring[d->tail % SLOTS].due <= now()) {
        struct packet *p = &d->ring[d->tail % SLOTS];
        if (write(d->to, p->bytes, (size_t)p->length) < 0 && errno != EAGAIN && errno != EIO && errno != EINVAL)
            die("write");
        free(p->bytes);
        d->tail++;
    }
}

int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "usage: delay_line NAMESPACE_A NAMESPACE_B INTERFACE US_A_TO_B US_B_TO_A\n");
        return 2;
    }
    /* Woken when it is time, not up to 50 us later; and not left behind by the processes that it connects. */
    prctl(PR_SET_TIMERSLACK, 1);
    struct sched_param first = {.sched_priority = 2};
    if (sched_setscheduler(0, SCHED_FIFO, &first) < 0) fprintf(stderr, "delay_line: no real-time priority\n");
    int a = tun_in(words[1], words[3]), b = tun_in(words[2], words[3]);
    directions[0] = (struct direction){.from = a, .to = b, .delay = atoll(words[4]) * 1000};
    directions[1] = (struct direction){.from = b, .to = a, .delay = atoll(words[5]) * 1000};
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t next = INT64_MAX;
        for (int i = 0; i < 2; i++) {
            let_out(&directions[i]);
            if (directions[i].tail != directions[i].head && directions[i].ring[directions[i].tail % SLOTS].due < next)
                next = directions[i].ring[directions[i].tail % SLOTS].due;
        }
        struct pollfd ends[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
        int64_t left = next == INT64_MAX ? INT64_C(1000000000) : next - now();
        if (left < 0) left = 0;
        struct timespec wait = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        if (ppoll(ends, 2, &wait, NULL) < 0 && errno != EINTR) die("ppoll");
        for (int i = 0; i < 2; i++) take_in(&directions[i]);
    }
}
