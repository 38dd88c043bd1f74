/*
 * ramtest: drives the `ram` device from the guest and checks its data.
 *
 *   ramtest [--device WHICH] [--mode poll|msix|intx|vfio|msi] [--size BYTES] [--rounds N] [--above BYTES]
 *
 * poll   completion by reading STATUS
 * msix   MSI-X messages seen as memory writes (TCG only)
 * intx   INTx through uio_pci_generic
 * vfio   MSI-X through vfio-pci, in a machine with an IOMMU in front of the device
 * msi    MSI in the same way
 *
 * --size   bytes moved at a time, at most half of the device's memory; the guest gives 2 x SIZE of its own.
 *          Where that is not in one piece, as many transfers are made as it has pieces.
 * --above  also moves data to and from a page of guest memory at or above this physical address.
 * One line for each check, "ok NAME" or "not ok NAME: …"; exit status 0 if all are ok.
 */
#include "pci.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Registers of BAR 0: device-models/ram/registers.ts. */
enum {
	ID = 0x00,
	MEMORY_SIZE = 0x08,
	SCRATCH = 0x10,
	GUEST_ADDRESS = 0x20,
	DEVICE_ADDRESS = 0x28,
	LENGTH = 0x30,
	COMMAND = 0x38,
	STATUS = 0x3c,
	VECTOR = 0x40,
	INTERRUPT = 0x44,
	COMPLETED = 0x48,
};
enum { FROM_GUEST = 1, TO_GUEST = 2, BAD_COMMAND_TO_TRY = 77 };
enum { IDLE, BUSY, DONE, BAD_RANGE, DMA_FAULT, BAD_COMMAND };
enum { IDENTITY = 0x4d415256, VECTORS = 4, TIMEOUT_MS = 20000, PAGE = 4096, TRAPPED_BYTES = 8192 };

enum mode { POLL, MSIX, INTX, VFIO, MSI };

static struct pci_device dev;
static volatile uint8_t *registers, *board;
static enum mode mode = POLL;
static volatile uint32_t *messages; /* one word for each MSI-X vector in mode msix */
static int failures;

static uint32_t reg32(unsigned offset)
{
	return *(volatile uint32_t *)(registers + offset);
}

static void set32(unsigned offset, uint32_t value)
{
	*(volatile uint32_t *)(registers + offset) = value;
}

static void set64(unsigned offset, uint64_t value)
{
	*(volatile uint64_t *)(registers + offset) = value;
}

static int check(int good, const char *name, const char *format, ...)
{
	va_list args;

	if (good) {
		printf("ok %s\n", name);
	} else {
		printf("not ok %s: ", name);
		va_start(args, format);
		vprintf(format, args);
		va_end(args);
		putchar('\n');
		failures++;
	}
	fflush(stdout);
	return good;
}

static uint64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

/* A sequence that differs with `seed` and does not repeat within a transfer (xorshift). */
static void fill(uint8_t *data, size_t length, uint32_t seed)
{
	uint32_t state = seed * 2654435761u + 1;

	for (size_t i = 0; i < length; i++) {
		state ^= state << 13;
		state ^= state >> 17;
		state ^= state << 5;
		data[i] = state;
	}
}

/* Index of the first byte that differs, or `length`. */
static size_t difference(const uint8_t *one, const volatile uint8_t *other, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (one[i] != other[i])
			return i;
	return length;
}

static int wait_completion(unsigned vector)
{
	uint64_t end = milliseconds() + TIMEOUT_MS;

	if (mode == VFIO || mode == MSI)
		return pci_message_wait(&dev, vector, TIMEOUT_MS) > 0;
	if (mode == INTX)
		return pci_intx_wait(&dev, TIMEOUT_MS) > 0;
	while (milliseconds() < end) {
		if (mode == MSIX ? messages[vector] == 0xc0de0000 + vector : reg32(STATUS) != BUSY)
			return 1;
		usleep(200);
	}
	return 0;
}

/* Runs one transfer; returns the device's status, or -1 when its completion was not notified. */
static int transfer(int direction, uint64_t guest, uint64_t device, uint64_t length, unsigned vector)
{
	if (mode == MSIX)
		messages[vector] = 0;
	set64(GUEST_ADDRESS, guest);
	set64(DEVICE_ADDRESS, device);
	set64(LENGTH, length);
	set32(VECTOR, vector);
	set32(COMMAND, direction);
	if (!wait_completion(vector))
		return -1;
	set32(INTERRUPT, 1);
	return reg32(STATUS);
}

static void test_identity(void)
{
	uint64_t size = *(volatile uint64_t *)(registers + MEMORY_SIZE);

	check(reg32(ID) == IDENTITY, "identity", "ID is 0x%08x", reg32(ID));
	check(size == dev.bar_size[2], "memory-size", "%llu, BAR 2 has %zu", (unsigned long long)size, dev.bar_size[2]);
	set32(SCRATCH, 0xa5a55a5a);
	check(reg32(SCRATCH) == 0xa5a55a5a, "scratch", "reads 0x%08x", reg32(SCRATCH));
}

/* On-board memory through BAR 2, by each width of access, at its start and its end. */
static void test_board(void)
{
	size_t starts[] = { 0, dev.bar_size[2] - TRAPPED_BYTES };
	static uint8_t pattern[TRAPPED_BYTES];
	int good = 1;

	for (unsigned i = 0; i < 2; i++) {
		volatile uint8_t *at = board + starts[i];

		fill(pattern, sizeof pattern, 17 + i);
		for (size_t j = 0; j < sizeof pattern; j += 8) {
			uint64_t value;

			memcpy(&value, pattern + j, 8);
			switch (j / 8 % 4) {
			case 0:
				*(volatile uint64_t *)(at + j) = value;
				break;
			case 1:
				for (int k = 0; k < 2; k++)
					((volatile uint32_t *)(at + j))[k] = value >> 32 * k;
				break;
			case 2:
				for (int k = 0; k < 4; k++)
					((volatile uint16_t *)(at + j))[k] = value >> 16 * k;
				break;
			default:
				for (int k = 0; k < 8; k++)
					at[j + k] = value >> 8 * k;
			}
		}
		good = good && difference(pattern, at, sizeof pattern) == sizeof pattern;
	}
	check(good, "board-memory", "reads other bytes than were written");
}

/* Memory for transfers, with the pieces in which the device finds it. */
struct buffer {
	uint8_t *bytes;
	unsigned pieces;
	struct {
		uint64_t address;
		size_t length;
	} piece[];
};

static struct buffer *buffer_new(size_t size)
{
	struct buffer *buffer = malloc(sizeof *buffer + (size / PAGE + 1) * sizeof buffer->piece[0]);
	size_t length;

	if (buffer == NULL || (buffer->bytes = dma_alloc(size)) == NULL)
		return NULL;
	buffer->pieces = 0;
	for (size_t at = 0; at < size; at += length) {
		length = dma_contiguous(&dev, buffer->bytes + at, size - at);
		buffer->piece[buffer->pieces].address = dma_address(&dev, buffer->bytes + at, length);
		buffer->piece[buffer->pieces++].length = length;
	}
	return buffer;
}

/* Moves a buffer, one transfer for each of its pieces; the status of the last one, or of the first to fail. */
static int move(int direction, const struct buffer *buffer, uint64_t device, unsigned vector)
{
	int status = DONE;

	for (unsigned i = 0; i < buffer->pieces && status == DONE; i++) {
		status = transfer(direction, buffer->piece[i].address, device, buffer->piece[i].length, vector);
		device += buffer->piece[i].length;
	}
	return status;
}

static void test_dma(size_t size, unsigned rounds)
{
	uint64_t place = dev.bar_size[2] / 2;
	uint32_t before = reg32(COMPLETED), expected;
	struct buffer *sending, *receiving;
	uint8_t *out, *in;
	char name[64];

	if (!check(size > 0 && size <= place, "dma-size", "%zu, the device has room for %llu", size,
		   (unsigned long long)place))
		return;
	sending = buffer_new(size);
	receiving = buffer_new(size);
	if (!check(sending != NULL && receiving != NULL, "dma-memory", "none to be had"))
		return;
	out = sending->bytes;
	in = receiving->bytes;
	for (unsigned round = 0; round < rounds; round++) {
		unsigned vector = round % VECTORS;
		int sent, received;
		size_t at;

		fill(out, size, round + 1);
		memset(in, 0, size);
		sent = move(FROM_GUEST, sending, place, vector);
		received = move(TO_GUEST, receiving, place, vector);
		at = difference(out, in, size);
		snprintf(name, sizeof name, "dma-%u-vector-%u", round, vector);
		check(sent == DONE && received == DONE && at == size, name,
		      "status %d out, %d in, first difference at %zu of %zu", sent, received, at, size);
		if (round == 0) {
			size_t seen = size < PAGE ? size : PAGE, end = size - seen;
			int good = difference(out, board + place, seen) == seen &&
				   difference(out + end, board + place + end, seen) == seen;

			check(good, "dma-seen-on-board", "other bytes behind BAR 2");
		}
	}
	expected = rounds * (sending->pieces + receiving->pieces);
	check(reg32(COMPLETED) - before == expected, "completed", "%u transfers counted of %u",
	      reg32(COMPLETED) - before, expected);
}

static void test_refusals(void)
{
	uint8_t *page = dma_alloc(PAGE);
	uint64_t at = dma_address(&dev, page, PAGE);
	int status = transfer(FROM_GUEST, at, dev.bar_size[2] - 8, 16, 0);

	check(status == BAD_RANGE, "refuses-bad-range", "status %d", status);
	status = transfer(BAD_COMMAND_TO_TRY, at, 0, 16, 1);
	check(status == BAD_COMMAND, "refuses-bad-command", "status %d", status);
}

static void test_above(uint64_t floor)
{
	uint8_t *page = dma_alloc_above(floor, (size_t)1 << 31);
	static uint8_t pattern[PAGE];
	int sent, received;
	uint64_t at;

	if (!check(page != NULL, "high-memory", "no page at or above 0x%llx", (unsigned long long)floor))
		return;
	at = dma_address(&dev, page, PAGE);
	fill(pattern, PAGE, 99);
	memcpy(page, pattern, PAGE);
	sent = transfer(FROM_GUEST, at, 0, PAGE, 0);
	memset(page, 0, PAGE);
	received = transfer(TO_GUEST, at, 0, PAGE, 0);
	check(sent == DONE && received == DONE && difference(pattern, page, PAGE) == PAGE, "dma-high-memory",
	      "at 0x%llx: status %d out, %d in", (unsigned long long)at, sent, received);
}

static int prepare(void)
{
	switch (mode) {
	case POLL:
		return 0;
	case MSIX:
		messages = dma_alloc(PAGE);
		for (unsigned i = 0; i < VECTORS; i++)
			if (messages == NULL || pci_msix_to_memory(&dev, i, &messages[i], 0xc0de0000 + i) < 0)
				return -1;
		return 0;
	case INTX:
		return pci_intx_open(&dev);
	default:
		if (pci_vfio_open(&dev) < 0)
			return -1;
		return pci_messages_open(&dev, mode == MSI ? PCI_MSI : PCI_MSIX, VECTORS);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "device", required_argument, NULL, 'd' },
		{ "mode", required_argument, NULL, 'm' },
		{ "size", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "above", required_argument, NULL, 'a' },
		{ NULL, 0, NULL, 0 },
	};
	static const char *const modes[] = { "poll", "msix", "intx", "vfio", "msi" };
	const char *which = "1b36:11e1";
	unsigned long long above = 0, size = 1 << 20;
	unsigned rounds = 8;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'd')
			which = optarg;
		else if (option == 's')
			size = strtoull(optarg, NULL, 0);
		else if (option == 'r')
			rounds = strtoul(optarg, NULL, 0);
		else if (option == 'a')
			above = strtoull(optarg, NULL, 0);
		else if (option != 'm')
			return 2;
		else
			for (mode = POLL; strcmp(modes[mode], optarg) != 0; mode++)
				if (mode == MSI)
					return fprintf(stderr, "modes: poll msix intx vfio msi\n"), 2;
	}
	if (pci_open(&dev, which) < 0 || pci_enable(&dev) < 0 || prepare() < 0)
		return 1;
	registers = pci_map_bar(&dev, 0);
	board = pci_map_bar(&dev, 2);
	if (registers == NULL || board == NULL)
		return 1;
	test_identity();
	test_board();
	test_dma(size, rounds);
	if (mode != VFIO && mode != MSI)
		test_refusals();
	if (above != 0)
		test_above(above);
	printf("%d failed\n", failures);
	return failures != 0;
}
