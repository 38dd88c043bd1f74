/*
 * Drives a PCI device from the guest's user space, as root, without a kernel driver of its own:
 * configuration space and BARs through sysfs, physical addresses through /proc/self/pagemap, interrupts
 * through uio_pci_generic (INTx), through vfio-pci where the machine has an IOMMU (MSI-X, MSI), or by
 * pointing MSI-X messages at memory (see pci_msix_to_memory).
 *
 * Functions that can fail say why on stderr and return -1 or NULL.
 */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include <stddef.h>
#include <stdint.h>

enum {
	PCI_BARS = 6,
	PCI_VECTORS = 32,
};

struct pci_device {
	char name[32]; /* 0000:00:02.0 */
	uint16_t vendor;
	uint16_t device;
	int config; /* descriptor of sysfs `config` */
	void *bar[PCI_BARS]; /* NULL until mapped */
	size_t bar_size[PCI_BARS];
	int vfio; /* device descriptor, or -1 when the device is used through sysfs */
	int vfio_container;
	int events[PCI_VECTORS]; /* eventfds of MSI-X or MSI vectors, in vfio mode */
	int uio; /* descriptor of /dev/uioN, or -1 */
};

/* `which` is an address ("0000:00:02.0", "00:02.0") or ids ("1b36:11e1": the first such device). */
int pci_open(struct pci_device *dev, const char *which);
/* Memory (and I/O) decoding and bus mastering on. */
int pci_enable(struct pci_device *dev);
uint32_t pci_config_read(const struct pci_device *dev, unsigned offset, unsigned size);
int pci_config_write(const struct pci_device *dev, unsigned offset, unsigned size, uint32_t value);
/* Offset of a capability in configuration space, or 0. */
unsigned pci_find_capability(const struct pci_device *dev, uint8_t id);
/* Maps a memory BAR; its size is in bar_size afterwards. */
volatile void *pci_map_bar(struct pci_device *dev, unsigned index);

/* Locked, zeroed memory: one page, or huge pages, each physically contiguous and all of them perhaps not. */
void *dma_alloc(size_t size);
/* How many bytes of `memory`, which `dma_alloc` gave, lie in one piece for the device; all in vfio mode. */
size_t dma_contiguous(const struct pci_device *dev, const void *memory, size_t size);
/* Address that the device has to use for `memory`, in one piece: physical, or an I/O address in vfio mode. */
uint64_t dma_address(struct pci_device *dev, void *memory, size_t size);
/* A page at or above `floor`, or NULL if `limit` bytes were tried without finding one. */
void *dma_alloc_above(uint64_t floor, size_t limit);

/* Gives the device to the kernel driver `driver`, taking it from the one that has it. */
int pci_bind(struct pci_device *dev, const char *driver);

/* Binds uio_pci_generic; then INTx can be waited for. */
int pci_intx_open(struct pci_device *dev);
/* Unmasks INTx and waits: 1 if it came, 0 after timeout_ms. */
int pci_intx_wait(struct pci_device *dev, int timeout_ms);

/*
 * Points MSI-X vector `vector` at a 32-bit word of memory and switches MSI-X on. An MSI is a memory write;
 * here it is seen as one: `*word` becomes `data`. That needs no interrupt controller and no driver, but
 * also shows none; and it does not work under KVM, which takes a message for an interrupt in any case.
 */
int pci_msix_to_memory(struct pci_device *dev, unsigned vector, volatile uint32_t *word, uint32_t data);

/* Takes the device over by vfio-pci; the machine needs an IOMMU (intel-iommu) with the device behind it. */
int pci_vfio_open(struct pci_device *dev);
int pci_has_iommu(const struct pci_device *dev);
/* Makes memory reachable for the device; returns the I/O address. vfio mode only; see dma_address. */
uint64_t pci_vfio_map(struct pci_device *dev, void *memory, size_t size);
enum pci_messages { PCI_MSIX, PCI_MSI };
/* Switches MSI-X or MSI on with `count` vectors, each with an eventfd. vfio mode only. */
int pci_messages_open(struct pci_device *dev, enum pci_messages kind, unsigned count);
/* How often the vector came since the last call; 0 after timeout_ms. */
int pci_message_wait(struct pci_device *dev, unsigned vector, int timeout_ms);

#endif
