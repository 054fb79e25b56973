/* PCI: the two ways to configuration space, BAR sizing and moving, capabilities, interrupts, the q35 bridges. */
#include "pci/pci.h"
#include "chip.h"
#include "pci/q35.h"

#include <errno.h>

#define ECAM 0xb0000000ULL

struct rig {
	struct bus bus;
	struct pci_host host;
	struct q35 q35;
	struct pci_function fn;
	struct pins pins;
	unsigned messages, cf9_writes;
	u64 address;
	u32 data;
	u32 registers[1024];
};

static u64 registers_read(void *device, u64 offset, unsigned size)
{
	return ((u32 *)device)[offset / 4];
}

static void registers_write(void *device, u64 offset, unsigned size, u64 value)
{
	((u32 *)device)[offset / 4] = (u32)value;
}

static const struct io_ops registers_ops = { .read = registers_read, .write = registers_write };

static u64 cf9_read(void *device, u64 offset, unsigned size)
{
	return 0x5a;
}

static void cf9_write(void *device, u64 offset, unsigned size, u64 value)
{
	((struct rig *)device)->cf9_writes++;
}

static const struct io_ops cf9_ops = { .read = cf9_read, .write = cf9_write };

static void on_msi(void *opaque, u64 address, u32 data)
{
	struct rig *rig = opaque;
	rig->messages++;
	rig->address = address;
	rig->data = data;
}

/* A bus with the bridges and, at 00:02.0, a function with a 4 KiB BAR 0, a 64-bit BAR 2 and MSI-X in BAR 4. */
static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	bus_init(&rig->bus);
	pci_host_init(&rig->host, &rig->bus);
	rig->host.msi = on_msi;
	rig->host.msi_opaque = rig;
	rig->host.cf9_ops = &cf9_ops;
	rig->host.cf9_device = rig;
	g_assert_cmpint(q35_init(&rig->q35, &rig->host, ECAM, 0x600), ==, 0);
	pci_function_init(&rig->fn, 0x1af4, 0x1041, 0x020000, 1);
	pci_add_bar(&rig->fn, 0, PCI_BAR_MEM32, 4096, false, &registers_ops, rig->registers, "registers");
	pci_add_bar(&rig->fn, 2, PCI_BAR_MEM64, 1ULL << 33, true, &registers_ops, rig, "large");
	g_assert_cmpint(pci_add_msix(&rig->fn, 3, 4), ==, 0);
	rig->fn.intx = pin(&rig->pins, 16);
	g_assert_cmpint(pci_add(&rig->host, &rig->fn, PCI_DEVFN(2, 0)), ==, 0);
	bus_add_pio(&rig->bus, PCI_PORT_ADDRESS, PCI_PORTS, &pci_port_ops, &rig->host, "pci");
	bus_add_mmio(&rig->bus, ECAM, 256 << 20, &pci_ecam_ops, &rig->host, "ecam");
	return rig;
}

static void rig_free(struct rig *rig)
{
	bus_destroy(&rig->bus);
	g_free(rig);
}

static u32 cfg_read(struct rig *rig, unsigned devfn, unsigned offset, unsigned size)
{
	bus_write_pio(&rig->bus, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
	return bus_read_pio(&rig->bus, (u16)(0xcfc + (offset & 3)), size);
}

static void cfg_write(struct rig *rig, unsigned devfn, unsigned offset, unsigned size, u32 value)
{
	bus_write_pio(&rig->bus, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
	bus_write_pio(&rig->bus, (u16)(0xcfc + (offset & 3)), size, value);
}

enum { NIC = 2 << 3, LPC = 31 << 3 };

static void test_bridges(void)
{
	struct rig *rig = rig_new();
	g_assert_cmphex(cfg_read(rig, 0, 0, 4), ==, 0x29c08086);
	g_assert_cmphex(cfg_read(rig, 0, 8, 4) >> 8, ==, 0x060000);
	g_assert_cmphex(cfg_read(rig, 0, 0x60, 4), ==, ECAM | 1);
	g_assert_cmphex(cfg_read(rig, LPC, 0, 4), ==, 0x29188086);
	g_assert_cmphex(cfg_read(rig, LPC, 8, 4) >> 8, ==, 0x060100);
	g_assert_cmphex(cfg_read(rig, LPC, 0x40, 4), ==, 0x601);
	cfg_write(rig, LPC, 0x40, 4, 0x1001); /* fixed */
	g_assert_cmphex(cfg_read(rig, LPC, 0x40, 4), ==, 0x601);
	g_assert_cmphex(cfg_read(rig, LPC, 0x0e, 1), ==, 0x80);
	g_assert_cmphex(cfg_read(rig, 1 << 3, 0, 4), ==, 0xffffffff); /* nobody */
	rig_free(rig);
}

static void test_ecam_equals_ports(void)
{
	struct rig *rig = rig_new();
	for (unsigned devfn = 0; devfn < 256; devfn++)
		for (unsigned offset = 0; offset < 256; offset += 4) {
			u64 at = ECAM + (devfn << 12) + offset;
			g_assert_cmphex(bus_read_mmio(&rig->bus, at, 4), ==, cfg_read(rig, devfn, offset, 4));
			g_assert_cmphex(bus_read_mmio(&rig->bus, at + 1, 1), ==, cfg_read(rig, devfn, offset + 1, 1));
			g_assert_cmphex(bus_read_mmio(&rig->bus, at + 2, 2), ==, cfg_read(rig, devfn, offset + 2, 2));
		}
	bus_write_mmio(&rig->bus, ECAM + (NIC << 12) + 0x3c, 1, 11);
	g_assert_cmphex(cfg_read(rig, NIC, 0x3c, 1), ==, 11);
	g_assert_cmphex(bus_read_mmio(&rig->bus, ECAM + (1 << 20), 4), ==, 0xffffffff);           /* bus 1 */
	g_assert_cmphex(bus_read_mmio(&rig->bus, ECAM + (NIC << 12) + 0x100, 4), ==, 0xffffffff); /* not PCIe */
	rig->fn.pcie = true;
	g_assert_cmphex(bus_read_mmio(&rig->bus, ECAM + (NIC << 12) + 0x100, 4), ==, 0);
	rig_free(rig);
}

static void test_address_register(void)
{
	struct rig *rig = rig_new();
	bus_write_pio(&rig->bus, 0xcf8, 4, 0xffffffff);
	g_assert_cmphex(bus_read_pio(&rig->bus, 0xcf8, 4), ==, 0x80fffffc);
	bus_write_pio(&rig->bus, 0xcf8, 4, 0); /* disabled */
	g_assert_cmphex(bus_read_pio(&rig->bus, 0xcfc, 4), ==, 0xffffffff);
	bus_write_pio(&rig->bus, 0xcf8, 4, 0x80000000);
	bus_write_pio(&rig->bus, 0xcf9, 1, 6); /* reset control, not the address */
	g_assert_cmpint(rig->cf9_writes, ==, 1);
	g_assert_cmphex(bus_read_pio(&rig->bus, 0xcf9, 1), ==, 0x5a);
	g_assert_cmphex(bus_read_pio(&rig->bus, 0xcf8, 4), ==, 0x80000000);
	bus_write_pio(&rig->bus, 0xcf8, 1, 0xff);
	g_assert_cmphex(bus_read_pio(&rig->bus, 0xcf8, 4), ==, 0x80000000);
	rig_free(rig);
}

static void test_bar_sizing(void)
{
	struct rig *rig = rig_new();
	cfg_write(rig, NIC, 0x10, 4, 0xffffffff);
	g_assert_cmphex(cfg_read(rig, NIC, 0x10, 4), ==, 0xfffff000);
	cfg_write(rig, NIC, 0x18, 4, 0xffffffff);
	cfg_write(rig, NIC, 0x1c, 4, 0xffffffff);
	g_assert_cmphex(cfg_read(rig, NIC, 0x18, 4), ==, 0x0000000c); /* 64-bit, prefetchable */
	g_assert_cmphex(cfg_read(rig, NIC, 0x1c, 4), ==, 0xfffffffe);
	cfg_write(rig, NIC, 0x14, 4, 0xffffffff);
	g_assert_cmphex(cfg_read(rig, NIC, 0x14, 4), ==, 0); /* no such BAR */
	g_assert_cmphex(cfg_read(rig, NIC, 0x30, 4), ==, 0); /* no ROM */
	rig_free(rig);
}

static void test_bar_moves(void)
{
	struct rig *rig = rig_new();
	rig->registers[1] = 0x11223344;
	cfg_write(rig, NIC, 0x10, 4, 0xc0000000);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0000004, 4), ==, 0xffffffff); /* decoding is off */
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_MEMORY);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0000004, 4), ==, 0x11223344);
	cfg_write(rig, NIC, 0x10, 4, 0xc0100000);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0000004, 4), ==, 0xffffffff);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0100004, 4), ==, 0x11223344);
	cfg_write(rig, NIC, 0x10, 4, (u32)ECAM); /* taken: it answers nowhere */
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0100004, 4), ==, 0xffffffff);
	g_assert_cmphex(bus_read_mmio(&rig->bus, ECAM, 4), ==, 0x29c08086);
	cfg_write(rig, NIC, 0x10, 4, 0xc0000000);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0000004, 4), ==, 0x11223344);
	cfg_write(rig, NIC, 4, 2, 0);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0000004, 4), ==, 0xffffffff);
	rig_free(rig);
}

static void test_reset_unmaps(void)
{
	struct rig *rig = rig_new();
	cfg_write(rig, NIC, 0x10, 4, 0xc0000000);
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_host_reset(&rig->host);
	g_assert_cmphex(cfg_read(rig, NIC, 4, 2), ==, 0);
	g_assert_cmphex(cfg_read(rig, NIC, 0x10, 4), ==, 0);
	g_assert_cmphex(bus_read_mmio(&rig->bus, 0xc0000004, 4), ==, 0xffffffff);
	g_assert_cmphex(cfg_read(rig, LPC, 4, 2), ==, 7); /* wired on */
	g_assert_cmphex(cfg_read(rig, LPC, 0x40, 4), ==, 0x601);
	rig_free(rig);
}

static void test_capabilities(void)
{
	struct rig *rig = rig_new();
	struct pci_function other;
	g_assert_true(cfg_read(rig, NIC, 6, 2) & PCI_STATUS_CAPABILITIES);
	u8 at = (u8)cfg_read(rig, NIC, 0x34, 1);
	g_assert_cmphex(at, ==, 0x40);
	g_assert_cmphex(cfg_read(rig, NIC, at, 2), ==, PCI_CAP_MSIX); /* the only one */
	pci_function_init(&other, 1, 2, 0, 0);
	u8 first = pci_add_capability(&other, PCI_CAP_VENDOR, 5);
	u8 second = pci_add_capability(&other, PCI_CAP_PCIE, 60);
	g_assert_cmphex(other.config[0x34], ==, first);
	g_assert_cmphex(other.config[first + 1], ==, second);
	g_assert_cmphex(other.config[second + 1], ==, 0);
	g_assert_cmphex(second % 4, ==, 0);
	g_assert_cmpint(pci_add_capability(&other, PCI_CAP_VENDOR, 200), ==, 0);
	g_assert_cmpint(pci_add_capability(&other, PCI_CAP_VENDOR, (u8)(256 - second - 60)), !=, 0);
	g_assert_cmpint(pci_add_capability(&other, PCI_CAP_VENDOR, 2), ==, 0);
	rig_free(rig);
}

static void test_msix(void)
{
	struct rig *rig = rig_new();
	const u64 table = 0xc0000000;
	g_assert_cmphex(cfg_read(rig, NIC, 0x42, 2), ==, 2); /* three vectors */
	g_assert_cmphex(cfg_read(rig, NIC, 0x44, 4), ==, 4);
	g_assert_cmphex(cfg_read(rig, NIC, 0x48, 4), ==, 0x1004);
	cfg_write(rig, NIC, 0x20, 4, (u32)table);
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	g_assert_false(pci_msix_notify(&rig->fn, 1)); /* off */
	cfg_write(rig, NIC, 0x42, 2, 0x8000);
	g_assert_cmphex(cfg_read(rig, NIC, 0x42, 2), ==, 0x8002);
	bus_write_mmio(&rig->bus, table + 16, 8, 0xfee01000);
	bus_write_mmio(&rig->bus, table + 24, 4, 0x51);
	g_assert_true(pci_msix_notify(&rig->fn, 1)); /* masked: waits */
	g_assert_cmpint(rig->messages, ==, 0);
	g_assert_cmphex(bus_read_mmio(&rig->bus, table + 0x1000, 8), ==, 2);
	bus_write_mmio(&rig->bus, table + 28, 4, 0);
	g_assert_cmpint(rig->messages, ==, 1);
	g_assert_cmphex(rig->address, ==, 0xfee01000);
	g_assert_cmphex(rig->data, ==, 0x51);
	g_assert_cmphex(bus_read_mmio(&rig->bus, table + 0x1000, 8), ==, 0);
	cfg_write(rig, NIC, 0x42, 2, 0xc000); /* function mask */
	pci_msix_notify(&rig->fn, 1);
	g_assert_cmpint(rig->messages, ==, 1);
	cfg_write(rig, NIC, 0x42, 2, 0x8000);
	g_assert_cmpint(rig->messages, ==, 2);
	g_assert_true(pci_msix_notify(&rig->fn, 77));         /* out of range: nothing */
	bus_write_mmio(&rig->bus, table + 48, 8, 0xfee01000); /* beyond the table */
	g_assert_cmphex(bus_read_mmio(&rig->bus, table + 48, 8), ==, 0);
	g_assert_cmpint(pci_add_msix(&rig->fn, PCI_MAX_MSIX + 1, 5), ==, -EINVAL);
	rig_free(rig);
}

static void test_intx(void)
{
	struct rig *rig = rig_new();
	pci_set_intx(&rig->fn, true);
	g_assert_true(rig->pins.level[16]);
	g_assert_true(cfg_read(rig, NIC, 6, 2) & PCI_STATUS_INTX);
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_INTX_OFF);
	g_assert_false(rig->pins.level[16]);
	g_assert_true(cfg_read(rig, NIC, 6, 2) & PCI_STATUS_INTX);
	cfg_write(rig, NIC, 4, 2, 0);
	g_assert_true(rig->pins.level[16]);
	pci_set_intx(&rig->fn, false);
	g_assert_false(rig->pins.level[16]);
	rig_free(rig);
}

static void test_one_function_each(void)
{
	struct rig *rig = rig_new();
	struct pci_function other;
	pci_function_init(&other, 1, 2, 0, 0);
	g_assert_cmpint(pci_add(&rig->host, &other, PCI_DEVFN(2, 0)), ==, -EEXIST);
	rig_free(rig);
}

static void test_bar64(void)
{
	struct rig *rig = rig_new();
	rig->registers[0] = 0;
	cfg_write(rig, NIC, 0x18, 4, 0);
	cfg_write(rig, NIC, 0x1c, 4, 0x80);
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_MEMORY);
	g_assert_cmphex(rig->fn.bar[2].base, ==, 0x8000000000);
	cfg_write(rig, NIC, 0x1c, 4, 0x82);
	g_assert_cmphex(rig->fn.bar[2].base, ==, 0x8200000000);
	cfg_write(rig, NIC, 4, 2, 0);
	g_assert_cmphex(rig->fn.bar[2].base, ==, rig->fn.bar[2].parked);
	g_assert_cmphex(rig->fn.bar[2].parked, !=, rig->fn.bar[0].parked);
	rig_free(rig);
}

static void test_ecam_sizes(void)
{
	struct rig *rig = rig_new();
	const u64 nic = ECAM + (NIC << 12);
	bus_write_mmio(&rig->bus, nic + 0x18, 8, 0x8200000000);
	g_assert_cmphex(cfg_read(rig, NIC, 0x1c, 4), ==, 0x82);
	g_assert_cmphex(bus_read_mmio(&rig->bus, nic + 0x18, 8), ==, 0x820000000c);
	g_assert_cmphex(bus_read_mmio(&rig->bus, nic + 3, 2), ==, 0xffff);
	bus_write_mmio(&rig->bus, nic + 0x1e, 4, 0);
	g_assert_cmphex(cfg_read(rig, NIC, 0x1c, 4), ==, 0x82);
	g_assert_cmphex(bus_read_mmio(&rig->bus, nic + 0xfc, 4), ==, 0); /* the last register */
	rig_free(rig);
}

static void test_msix_reset(void)
{
	struct rig *rig = rig_new();
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_MASTER);
	cfg_write(rig, NIC, 0x42, 2, 0x8000);
	pci_msix_notify(&rig->fn, 0); /* pending */
	pci_host_reset(&rig->host);
	g_assert_false(pci_msix_enabled(&rig->fn));
	g_assert_cmphex(cfg_read(rig, NIC, 0x42, 2), ==, 2);
	cfg_write(rig, NIC, 4, 2, PCI_COMMAND_MASTER);
	cfg_write(rig, NIC, 0x42, 2, 0x8000);
	g_assert_cmpint(rig->messages, ==, 0);
	g_assert_cmpint(rig->fn.msix.entry[0].control, ==, 1);
	rig_free(rig);
}

static void test_msix_needs_master(void)
{
	struct rig *rig = rig_new();
	cfg_write(rig, NIC, 0x42, 2, 0x8000);
	rig->fn.msix.entry[0].control = 0;
	g_assert_true(pci_msix_notify(&rig->fn, 0));
	g_assert_cmpint(rig->messages, ==, 0);
	rig_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pci/q35-bridges", test_bridges);
	g_test_add_func("/pci/ecam-equals-ports", test_ecam_equals_ports);
	g_test_add_func("/pci/address-register-takes-dwords-only", test_address_register);
	g_test_add_func("/pci/bar-sizing", test_bar_sizing);
	g_test_add_func("/pci/bar-moves-on-the-bus", test_bar_moves);
	g_test_add_func("/pci/reset-unmaps", test_reset_unmaps);
	g_test_add_func("/pci/capabilities-are-a-list", test_capabilities);
	g_test_add_func("/pci/msix-masks-and-pends", test_msix);
	g_test_add_func("/pci/intx-can-be-silenced", test_intx);
	g_test_add_func("/pci/one-function-at-each-address", test_one_function_each);
	g_test_add_func("/pci/64-bit-bar-moves-above-4g", test_bar64);
	g_test_add_func("/pci/ecam-takes-quadwords-and-refuses-crossings", test_ecam_sizes);
	g_test_add_func("/pci/reset-masks-msix", test_msix_reset);
	g_test_add_func("/pci/no-messages-without-bus-mastering", test_msix_needs_master);
	return g_test_run();
}
