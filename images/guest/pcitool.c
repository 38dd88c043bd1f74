/*
 * pcitool: looks at a PCI device and pokes it.
 *
 *   pcitool DEVICE show                            ids, command, status, capabilities, BARs
 *   pcitool DEVICE read BAR OFFSET SIZE            one access of 1, 2, 4 or 8 bytes
 *   pcitool DEVICE write BAR OFFSET SIZE VALUE
 *   pcitool DEVICE config-read OFFSET SIZE
 *   pcitool DEVICE config-write OFFSET SIZE VALUE
 *   pcitool DEVICE enable                          decoding and bus mastering on
 *   pcitool DEVICE wait-intx TIMEOUT_MS            through uio_pci_generic; status 1 if none came
 *   pcitool DEVICE wait-msix COUNT TIMEOUT_MS      vectors 0…COUNT-1 through vfio-pci; prints each that came
 *
 * DEVICE is an address or "vendor:device".
 */
#include "pci.h"

#include <inttypes.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct pci_device dev;

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 0);
}

static int access_bar(char **args, int writing)
{
	unsigned index = number(args[0]), size = number(args[2]);
	uint64_t offset = number(args[1]), value = writing ? number(args[3]) : 0;
	volatile uint8_t *bar = pci_map_bar(&dev, index);
	volatile void *at;

	if (bar == NULL)
		return 1;
	if (offset + size > dev.bar_size[index] || (size != 1 && size != 2 && size != 4 && size != 8)) {
		fprintf(stderr, "no such place in BAR %u\n", index);
		return 2;
	}
	at = bar + offset;
	if (writing) {
		if (size == 1)
			*(volatile uint8_t *)at = value;
		else if (size == 2)
			*(volatile uint16_t *)at = value;
		else if (size == 4)
			*(volatile uint32_t *)at = value;
		else
			*(volatile uint64_t *)at = value;
		return 0;
	}
	if (size == 1)
		value = *(volatile uint8_t *)at;
	else if (size == 2)
		value = *(volatile uint16_t *)at;
	else if (size == 4)
		value = *(volatile uint32_t *)at;
	else
		value = *(volatile uint64_t *)at;
	printf("0x%" PRIx64 "\n", value);
	return 0;
}

static int show(void)
{
	unsigned offset = pci_config_read(&dev, PCI_CAPABILITY_LIST, 1);

	printf("device %s %04x:%04x class %06x revision %02x\n", dev.name, dev.vendor, dev.device,
	       pci_config_read(&dev, PCI_CLASS_REVISION, 4) >> 8, pci_config_read(&dev, PCI_CLASS_REVISION, 1));
	printf("command %04x status %04x pin %u\n", pci_config_read(&dev, PCI_COMMAND, 2),
	       pci_config_read(&dev, PCI_STATUS, 2), pci_config_read(&dev, PCI_INTERRUPT_PIN, 1));
	for (int left = 48; left > 0 && offset >= PCI_STD_HEADER_SIZEOF; left--) {
		printf("capability %02x at %02x\n", pci_config_read(&dev, offset, 1), offset);
		offset = pci_config_read(&dev, offset + PCI_CAP_LIST_NEXT, 1) & ~3u;
	}
	for (unsigned i = 0; i < PCI_BARS; i++)
		printf("bar%u %08x\n", i, pci_config_read(&dev, PCI_BASE_ADDRESS_0 + 4 * i, 4));
	return 0;
}

static int wait_msix(unsigned count, int timeout_ms)
{
	int came = 0;

	if (pci_vfio_open(&dev) < 0 || pci_messages_open(&dev, PCI_MSIX, count) < 0)
		return 1;
	for (unsigned i = 0; i < count; i++) {
		int times = pci_message_wait(&dev, i, timeout_ms);

		if (times > 0)
			printf("vector %u came %d times\n", i, times);
		came += times > 0;
	}
	return came == 0;
}

static int usage(void)
{
	fprintf(stderr, "pcitool DEVICE show | enable | read BAR OFFSET SIZE | write BAR OFFSET SIZE VALUE |\n"
			"  config-read OFFSET SIZE | config-write OFFSET SIZE VALUE | wait-intx MS | wait-msix COUNT MS\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *command = argc > 2 ? argv[2] : "";
	char **args = argv + 3;
	int count = argc - 3;

	if (argc < 3)
		return usage();
	if (pci_open(&dev, argv[1]) < 0)
		return 1;
	if (strcmp(command, "show") == 0 && count == 0)
		return show();
	if (strcmp(command, "enable") == 0 && count == 0)
		return pci_enable(&dev) < 0;
	if (strcmp(command, "read") == 0 && count == 3)
		return access_bar(args, 0);
	if (strcmp(command, "write") == 0 && count == 4)
		return access_bar(args, 1);
	if (strcmp(command, "config-read") == 0 && count == 2) {
		printf("0x%x\n", pci_config_read(&dev, number(args[0]), number(args[1])));
		return 0;
	}
	if (strcmp(command, "config-write") == 0 && count == 3)
		return pci_config_write(&dev, number(args[0]), number(args[1]), number(args[2])) < 0;
	if (strcmp(command, "wait-intx") == 0 && count == 1)
		return pci_intx_open(&dev) < 0 || pci_intx_wait(&dev, number(args[0])) == 0;
	if (strcmp(command, "wait-msix") == 0 && count == 2)
		return wait_msix(number(args[0]), number(args[1]));
	return usage();
}
