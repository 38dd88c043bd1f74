#define _GNU_SOURCE
#include "pci.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* I/O addresses are handed out from here on; nothing else is mapped there. */
static uint64_t next_address = 0x10000000;

static int complain(const struct pci_device *dev, const char *what)
{
	fprintf(stderr, "%s: %s (%s)\n", dev->name, what, strerror(errno));
	return -1;
}

static int group_number(const struct pci_device *dev)
{
	char path[128], target[256];
	ssize_t length;

	snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/iommu_group", dev->name);
	length = readlink(path, target, sizeof target - 1);
	if (length < 0)
		return -1;
	target[length] = 0;
	return atoi(strrchr(target, '/') + 1);
}

int pci_has_iommu(const struct pci_device *dev)
{
	return group_number(dev) >= 0;
}

static int map_bars(struct pci_device *dev)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct vfio_region_info info = { .argsz = sizeof info, .index = VFIO_PCI_BAR0_REGION_INDEX + i };
		void *mapping;

		if (ioctl(dev->vfio, VFIO_DEVICE_GET_REGION_INFO, &info) < 0 || info.size == 0 ||
		    !(info.flags & VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		mapping = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, dev->vfio, info.offset);
		if (mapping == MAP_FAILED)
			return complain(dev, "cannot map a BAR");
		dev->bar[i] = mapping;
		dev->bar_size[i] = info.size;
	}
	return 0;
}

int pci_vfio_open(struct pci_device *dev)
{
	char path[64];
	int number = group_number(dev), group;

	errno = ENODEV;
	if (number < 0)
		return complain(dev, "is not behind an IOMMU");
	if (pci_bind(dev, "vfio-pci") < 0)
		return -1;
	snprintf(path, sizeof path, "/dev/vfio/%d", number);
	dev->vfio_container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	group = open(path, O_RDWR | O_CLOEXEC);
	if (dev->vfio_container < 0 || group < 0)
		return complain(dev, "cannot open its vfio group");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &dev->vfio_container) < 0 ||
	    ioctl(dev->vfio_container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
		return complain(dev, "cannot give its group to a container");
	dev->vfio = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, dev->name);
	if (dev->vfio < 0)
		return complain(dev, "vfio does not hand it out");
	return map_bars(dev) < 0 ? -1 : pci_enable(dev);
}

uint64_t pci_vfio_map(struct pci_device *dev, void *memory, size_t size)
{
	const size_t page = 4096;
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof map,
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = next_address,
		.size = (size + page - 1) & ~(page - 1),
	};

	if (ioctl(dev->vfio_container, VFIO_IOMMU_MAP_DMA, &map) < 0)
		complain(dev, "cannot map memory for DMA");
	next_address += map.size;
	return map.iova;
}

int pci_messages_open(struct pci_device *dev, enum pci_messages kind, unsigned count)
{
	struct {
		struct vfio_irq_set head;
		int events[PCI_VECTORS];
	} set = {
		.head = {
			.argsz = sizeof set.head + count * sizeof(int),
			.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			.index = kind == PCI_MSI ? VFIO_PCI_MSI_IRQ_INDEX : VFIO_PCI_MSIX_IRQ_INDEX,
			.count = count,
		},
	};

	errno = EINVAL;
	if (count > PCI_VECTORS)
		return complain(dev, "too many vectors");
	for (unsigned i = 0; i < count; i++)
		dev->events[i] = set.events[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return ioctl(dev->vfio, VFIO_DEVICE_SET_IRQS, &set) < 0 ? complain(dev, "cannot switch message interrupts on") : 0;
}

int pci_message_wait(struct pci_device *dev, unsigned vector, int timeout_ms)
{
	struct pollfd wait = { .fd = dev->events[vector], .events = POLLIN };
	uint64_t count = 0;

	if (poll(&wait, 1, timeout_ms) <= 0)
		return 0;
	return read(dev->events[vector], &count, sizeof count) == sizeof count ? (int)count : 0;
}
