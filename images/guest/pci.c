#define _GNU_SOURCE
#include "pci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char devices[] = "/sys/bus/pci/devices";

/* Fewest huge pages that the kernel is asked to keep, from the first large allocation on. */
#define HUGE_PAGES 8
#define HUGE_PAGES_KEPT "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define HUGE_PAGES_FREE "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, PATH_LENGTH = 256 };

static int complain(const char *what, const char *detail)
{
	fprintf(stderr, "%s: %s (%s)\n", what, detail, strerror(errno));
	return -1;
}

static int attribute_path(char *path, const struct pci_device *dev, const char *attribute)
{
	return snprintf(path, PATH_LENGTH, "%s/%s/%s", devices, dev->name, attribute);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t done;

	if (fd < 0)
		return complain(path, "cannot open");
	done = write(fd, text, strlen(text));
	close(fd);
	return done < 0 ? complain(path, "cannot write") : 0;
}

static unsigned long read_number(const struct pci_device *dev, const char *attribute)
{
	char path[PATH_LENGTH], text[64] = "";
	int fd;

	attribute_path(path, dev, attribute);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof text - 1) < 0)
		text[0] = 0;
	close(fd);
	return strtoul(text, NULL, 0);
}

static int matches(struct pci_device *dev, const char *which)
{
	char ids[16];

	dev->vendor = read_number(dev, "vendor");
	dev->device = read_number(dev, "device");
	snprintf(ids, sizeof ids, "%04x:%04x", dev->vendor, dev->device);
	return strcmp(which, dev->name) == 0 || strcmp(which, dev->name + 5) == 0 || strcasecmp(which, ids) == 0;
}

int pci_open(struct pci_device *dev, const char *which)
{
	struct dirent **entries;
	char path[PATH_LENGTH];
	int count, found = 0;

	memset(dev, 0, sizeof *dev);
	dev->config = dev->vfio = dev->vfio_container = dev->uio = -1;
	count = scandir(devices, &entries, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		if (!found && entries[i]->d_name[0] != '.') {
			snprintf(dev->name, sizeof dev->name, "%.31s", entries[i]->d_name);
			found = matches(dev, which);
		}
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	errno = ENODEV;
	if (!found)
		return complain(which, "no such PCI device");
	attribute_path(path, dev, "config");
	dev->config = open(path, O_RDWR | O_CLOEXEC);
	return dev->config < 0 ? complain(path, "cannot open") : 0;
}

uint32_t pci_config_read(const struct pci_device *dev, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	if (pread(dev->config, &value, size, offset) != (ssize_t)size)
		return ~0u;
	return value;
}

int pci_config_write(const struct pci_device *dev, unsigned offset, unsigned size, uint32_t value)
{
	return pwrite(dev->config, &value, size, offset) == (ssize_t)size ? 0 : complain(dev->name, "config write");
}

int pci_enable(struct pci_device *dev)
{
	uint32_t command = pci_config_read(dev, PCI_COMMAND, 2);

	command |= PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	return pci_config_write(dev, PCI_COMMAND, 2, command);
}

unsigned pci_find_capability(const struct pci_device *dev, uint8_t id)
{
	unsigned offset = pci_config_read(dev, PCI_CAPABILITY_LIST, 1);

	if (!(pci_config_read(dev, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST))
		return 0;
	for (int left = 48; left > 0 && offset >= PCI_STD_HEADER_SIZEOF; left--) {
		if (pci_config_read(dev, offset, 1) == id)
			return offset;
		offset = pci_config_read(dev, offset + PCI_CAP_LIST_NEXT, 1) & ~3u;
	}
	return 0;
}

volatile void *pci_map_bar(struct pci_device *dev, unsigned index)
{
	char path[PATH_LENGTH], attribute[16];
	struct stat stat;
	void *mapping;
	int fd;

	if (index >= PCI_BARS)
		return NULL;
	if (dev->bar[index] != NULL)
		return dev->bar[index];
	snprintf(attribute, sizeof attribute, "resource%u", index);
	attribute_path(path, dev, attribute);
	fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat) < 0) {
		complain(path, "cannot open");
		return NULL;
	}
	mapping = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (mapping == MAP_FAILED) {
		complain(path, "cannot map");
		return NULL;
	}
	dev->bar[index] = mapping;
	dev->bar_size[index] = stat.st_size;
	return mapping;
}

static unsigned long read_count(const char *path)
{
	unsigned long value = 0;
	FILE *file = fopen(path, "re");

	if (file == NULL || fscanf(file, "%lu", &value) != 1)
		complain(path, "no number");
	if (file != NULL)
		fclose(file);
	return value;
}

/* Lets the kernel keep more huge pages if fewer than `wanted` are free. */
static void reserve_huge_pages(unsigned long wanted)
{
	unsigned long kept = read_count(HUGE_PAGES_KEPT), available = read_count(HUGE_PAGES_FREE);
	char text[24];

	if (available >= wanted)
		return;
	kept += wanted - available;
	snprintf(text, sizeof text, "%lu", kept < HUGE_PAGES ? HUGE_PAGES : kept);
	write_file(HUGE_PAGES_KEPT, text);
	available = read_count(HUGE_PAGES_FREE);
	if (available < wanted)
		fprintf(stderr, "dma_alloc: %lu huge pages of 2 MiB wanted, the guest has %lu to give\n", wanted, available);
}

void *dma_alloc(size_t size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE;
	void *memory;

	if (size > PAGE) {
		flags |= MAP_HUGETLB;
		size = (size + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
		reserve_huge_pages(size / HUGE_PAGE);
	}
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (memory == MAP_FAILED) {
		complain("dma_alloc", "no memory");
		return NULL;
	}
	memset(memory, 0, size);
	return memory;
}

static uint64_t physical_address(const void *memory)
{
	enum { ENTRY = 8 };
	const uint64_t present = 1ull << 63, frame_mask = (1ull << 55) - 1;
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &entry, ENTRY, (uintptr_t)memory / PAGE * ENTRY) != ENTRY || !(entry & present))
		complain("pagemap", "no physical address");
	if (fd >= 0)
		close(fd);
	return (entry & frame_mask) * PAGE + (uintptr_t)memory % PAGE;
}

uint64_t dma_address(struct pci_device *dev, void *memory, size_t size)
{
	return dev->vfio >= 0 ? pci_vfio_map(dev, memory, size) : physical_address(memory);
}

size_t dma_contiguous(const struct pci_device *dev, const void *memory, size_t size)
{
	const char *at = memory;
	/* To the next boundary of a huge page: within one, memory is contiguous. */
	size_t length = HUGE_PAGE - (uintptr_t)at % HUGE_PAGE;

	if (dev->vfio >= 0)
		return size;
	while (length < size && physical_address(at + length) == physical_address(at) + length)
		length += HUGE_PAGE;
	return length < size ? length : size;
}

void *dma_alloc_above(uint64_t floor, size_t limit)
{
	for (size_t tried = 0; tried < limit; tried += PAGE) {
		void *page = dma_alloc(PAGE);

		if (page == NULL)
			return NULL;
		if (physical_address(page) >= floor)
			return page;
	}
	return NULL;
}

int pci_bind(struct pci_device *dev, const char *driver)
{
	char path[PATH_LENGTH], command[64];

	snprintf(command, sizeof command, "modprobe %s", driver);
	if (system(command) != 0)
		return complain(driver, "no such driver");
	attribute_path(path, dev, "driver_override");
	if (write_file(path, driver) < 0)
		return -1;
	attribute_path(path, dev, "driver/unbind");
	if (access(path, W_OK) == 0 && write_file(path, dev->name) < 0)
		return -1;
	return write_file("/sys/bus/pci/drivers_probe", dev->name);
}

int pci_intx_open(struct pci_device *dev)
{
	char path[PATH_LENGTH];
	struct dirent *entry;
	DIR *folder;

	if (pci_bind(dev, "uio_pci_generic") < 0)
		return -1;
	attribute_path(path, dev, "uio");
	folder = opendir(path);
	if (folder == NULL)
		return complain(path, "the driver did not take the device");
	while ((entry = readdir(folder)) != NULL) {
		if (strncmp(entry->d_name, "uio", 3) == 0) {
			snprintf(path, sizeof path, "/dev/%.32s", entry->d_name);
			dev->uio = open(path, O_RDWR | O_CLOEXEC);
		}
	}
	closedir(folder);
	return dev->uio < 0 ? complain(path, "cannot open") : pci_enable(dev);
}

int pci_intx_wait(struct pci_device *dev, int timeout_ms)
{
	struct pollfd wait = { .fd = dev->uio, .events = POLLIN };
	uint32_t command = pci_config_read(dev, PCI_COMMAND, 2);
	uint32_t count;

	/* The driver masks the line at each interrupt. */
	pci_config_write(dev, PCI_COMMAND, 2, command & ~PCI_COMMAND_INTX_DISABLE);
	if (poll(&wait, 1, timeout_ms) <= 0)
		return 0;
	return read(dev->uio, &count, sizeof count) == sizeof count;
}

int pci_msix_to_memory(struct pci_device *dev, unsigned vector, volatile uint32_t *word, uint32_t data)
{
	unsigned capability = pci_find_capability(dev, PCI_CAP_ID_MSIX);
	uint64_t address = physical_address((void *)word);
	volatile uint32_t *entry;
	volatile uint8_t *bar;
	uint32_t table, flags;

	errno = ENOTSUP;
	if (capability == 0)
		return complain(dev->name, "no MSI-X capability");
	table = pci_config_read(dev, capability + PCI_MSIX_TABLE, 4);
	flags = pci_config_read(dev, capability + PCI_MSIX_FLAGS, 2);
	bar = pci_map_bar(dev, table & PCI_MSIX_TABLE_BIR);
	if (bar == NULL || vector > (flags & PCI_MSIX_FLAGS_QSIZE))
		return complain(dev->name, "no such MSI-X vector");
	entry = (volatile uint32_t *)(bar + (table & PCI_MSIX_TABLE_OFFSET) + vector * PCI_MSIX_ENTRY_SIZE);
	pci_config_write(dev, capability + PCI_MSIX_FLAGS, 2, flags | PCI_MSIX_FLAGS_ENABLE);
	entry[PCI_MSIX_ENTRY_VECTOR_CTRL / 4] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
	entry[PCI_MSIX_ENTRY_LOWER_ADDR / 4] = (uint32_t)address;
	entry[PCI_MSIX_ENTRY_UPPER_ADDR / 4] = (uint32_t)(address >> 32);
	entry[PCI_MSIX_ENTRY_DATA / 4] = data;
	entry[PCI_MSIX_ENTRY_VECTOR_CTRL / 4] = 0;
	return 0;
}
