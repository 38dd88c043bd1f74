/*
 * The device of dirty-log-device.ts in C, on libvfio-user: what the library's dirty tracker costs a device that was written
 * for it. Compiled by dirty-log-peers.ts where a compiler, the library and its header are there.
 *
 *   cc -O2 -I include -o device dirty-log-libvfio-user.c -L lib -lvfio-user && ./device SOCKET
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "libvfio-user.h"

/* BAR 0; see dirty-log-device.ts. */
struct registers {
    uint64_t base, stride, span, length, start, nanoseconds;
};

static struct registers registers;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Each write as the library's documentation has it: get, write, put; put marks the page. */
static int write_guest(vfu_ctx_t *ctx, dma_sg_t *sg, const void *bytes, uint64_t address)
{
    struct iovec iov;

    if (vfu_addr_to_sgl(ctx, (vfu_dma_addr_t)(uintptr_t)address, registers.length, sg, 1, PROT_WRITE) != 1)
        return -1;
    if (vfu_sgl_get(ctx, sg, &iov, 1, 0) < 0)
        return -1;
    memcpy(iov.iov_base, bytes, registers.length);
    vfu_sgl_put(ctx, sg, &iov, 1);
    return 0;
}

static int run(vfu_ctx_t *ctx, uint64_t count)
{
    static uint8_t bytes[4096];
    static uint64_t room[32]; /* of dma_sg_size() bytes, checked in main */
    uint64_t begin = now();
    uint64_t at = 0;

    if (registers.length > sizeof bytes) {
        errno = EINVAL;
        return -1;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (write_guest(ctx, (dma_sg_t *)room, bytes, registers.base + at) < 0)
            return -1;
        at += registers.stride;
        if (at >= registers.span)
            at -= registers.span;
    }
    registers.nanoseconds = now() - begin;
    return 0;
}

static ssize_t access_bar(vfu_ctx_t *ctx, char *buffer, size_t count, loff_t offset, bool is_write)
{
    if (offset < 0 || (size_t)offset + count > sizeof registers) {
        errno = EINVAL;
        return -1;
    }
    if (!is_write)
        memcpy(buffer, (char *)&registers + offset, count);
    else {
        memcpy((char *)&registers + offset, buffer, count);
        if ((size_t)offset == offsetof(struct registers, start) && run(ctx, registers.start) < 0)
            return -1;
    }
    return (ssize_t)count;
}

static void registered(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    (void)ctx;
    (void)info;
}

static int quiesce(vfu_ctx_t *ctx)
{
    (void)ctx;
    return 0;
}

static int transition(vfu_ctx_t *ctx, vfu_migr_state_t state)
{
    (void)ctx;
    (void)state;
    return 0;
}

static ssize_t no_data(vfu_ctx_t *ctx, void *buffer, uint64_t count)
{
    (void)ctx;
    (void)buffer;
    (void)count;
    return 0;
}

int main(int argc, char **argv)
{
    const vfu_migration_callbacks_t callbacks = {
        .version = VFU_MIGR_CALLBACKS_VERS,
        .transition = transition,
        .read_data = no_data,
        .write_data = no_data,
    };
    vfu_ctx_t *ctx;

    if (argc != 2 || dma_sg_size() > 32 * sizeof(uint64_t))
        return 2;
    ctx = vfu_create_ctx(VFU_TRANS_SOCK, argv[1], 0, NULL, VFU_DEV_TYPE_PCI);
    if (ctx == NULL || vfu_pci_init(ctx, VFU_PCI_TYPE_EXPRESS, PCI_HEADER_TYPE_NORMAL, 0) < 0 ||
        vfu_setup_region(ctx, VFU_PCI_DEV_BAR0_REGION_IDX, 0x1000, access_bar,
                         VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0) < 0 ||
        vfu_setup_device_dma(ctx, 1024, registered, registered) < 0 ||
        vfu_setup_device_migration_callbacks(ctx, &callbacks) < 0) {
        perror("setting up the device");
        return 1;
    }
    vfu_setup_device_quiesce_cb(ctx, quiesce);
    if (vfu_realize_ctx(ctx) < 0 || vfu_attach_ctx(ctx) < 0) {
        perror("waiting for the client");
        return 1;
    }
    while (vfu_run_ctx(ctx) >= 0 || errno == EINTR)
        ;
    vfu_destroy_ctx(ctx);
    return 0;
}
