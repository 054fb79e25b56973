#include "vm/acpi.h"

#include "chip/hpet.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "chip/pm.h"
#include "vm/aml.h"
#include "vm/board.h"

#include <assert.h>
#include <string.h>

/* Layouts of ACPI 6.5, chapter 5.2. */

struct table_header {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	char oem_id[6], oem_table_id[8];
	u32 oem_revision;
	char creator_id[4];
	u32 creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct table_header) == 36, "ACPI 6.5, table 5.4");

struct rsdp {
	char signature[8];
	u8 checksum; /* of the first 20 bytes */
	char oem_id[6];
	u8 revision;
	u32 rsdt, length;
	u64 xsdt;
	u8 extended_checksum, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "ACPI 6.5, table 5.3");

struct address { /* generic address structure, 5.2.3.2 */
	u8 space, bits, offset, access;
	u64 address;
} __attribute__((packed));
enum { SPACE_MEMORY = 0, SPACE_IO = 1, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

struct fadt {
	struct table_header header;
	u32 facs, dsdt;
	u8 reserved0, profile;
	u16 sci;
	u32 smi_command;
	u8 acpi_enable, acpi_disable, s4bios, pstate_control;
	u32 pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
	u8 pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length, gpe0_length, gpe1_length;
	u8 gpe1_base, cstate_control;
	u16 c2_latency, c3_latency, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alarm, month_alarm, century;
	u16 boot_flags;
	u8 reserved1;
	u32 flags;
	struct address reset;
	u8 reset_value;
	u16 arm_flags;
	u8 minor;
	u64 x_facs, x_dsdt;
	struct address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control, x_pm_timer;
	struct address x_gpe0, x_gpe1, sleep_control, sleep_status;
	u64 hypervisor;
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "ACPI 6.5, table 5.9");

/* Fixed feature flags, 5.2.9 table 5.10; boot architecture flags, table 5.11. */
#define FADT_WBINVD         BIT(0)
#define FADT_PROC_C1        BIT(2)
#define FADT_SLP_BUTTON     BIT(5) /* there is none */
#define FADT_TMR_VAL_EXT    BIT(8)
#define FADT_RESET_REG      BIT(10)
#define FADT_LEGACY_DEVICES BIT(0)
#define FADT_NO_VGA         BIT(2)
#define FADT_NO_ASPM        BIT(4)

struct facs {
	char signature[4];
	u32 length, hardware_signature, waking_vector, global_lock, flags;
	u64 x_waking_vector;
	u8 version, reserved[31];
} __attribute__((packed));
_Static_assert(sizeof(struct facs) == 64, "ACPI 6.5, table 5.12");

struct hpet_table {
	struct table_header header;
	u32 id;
	struct address base;
	u8 number;
	u16 minimum_tick;
	u8 protection;
} __attribute__((packed));

struct mcfg {
	struct table_header header;
	u8 reserved0[8];
	u64 base;
	u16 segment;
	u8 first_bus, last_bus;
	u32 reserved1;
} __attribute__((packed));

/* The MADT and its entries, 5.2.12. */
struct madt {
	struct table_header header;
	u32 lapic_base, flags;
} __attribute__((packed));

struct madt_lapic {
	u8 type, length, uid, id;
	u32 flags;
} __attribute__((packed));

struct madt_x2apic {
	u8 type, length;
	u16 reserved;
	u32 id, flags, uid;
} __attribute__((packed));

struct madt_ioapic {
	u8 type, length, id, reserved;
	u32 base, first_gsi;
} __attribute__((packed));

struct madt_override {
	u8 type, length, bus, source;
	u32 gsi;
	u16 flags;
} __attribute__((packed));

struct madt_lapic_nmi {
	u8 type, length, uid;
	u16 flags;
	u8 lint;
} __attribute__((packed));

struct madt_x2apic_nmi {
	u8 type, length;
	u16 flags;
	u32 uid;
	u8 lint, reserved[3];
} __attribute__((packed));

enum {
	MADT_LAPIC = 0,
	MADT_IOAPIC = 1,
	MADT_OVERRIDE = 2,
	MADT_LAPIC_NMI = 4,
	MADT_X2APIC = 9,
	MADT_X2APIC_NMI = 10,
	MADT_PCAT_COMPAT = 1, /* there is a PIC pair */
	MADT_ENABLED = 1,
	MADT_ACTIVE_HIGH = 0x1,
	MADT_LEVEL = 0xc,
	MADT_ALL_XAPIC = 0xff,
	XAPIC_IDS = 255, /* 255 is the broadcast address */
	LINT_NMI = 1
};
#define MADT_ALL_X2APIC 0xffffffffu

/* --- the area in guest memory --- */

struct area {
	u8 bytes[ACPI_SIZE];
	size_t at;
};

static gpa_t place(struct area *area, const void *table, size_t size, size_t align)
{
	area->at = (area->at + align - 1) & ~(align - 1);
	assert(area->at + size <= sizeof area->bytes);
	memcpy(area->bytes + area->at, table, size);
	area->at += size;
	return ACPI_BASE + area->at - size;
}

static u8 checksum(const void *bytes, size_t size)
{
	u8 sum = 0;
	for (size_t i = 0; i < size; i++)
		sum = (u8)(sum + ((const u8 *)bytes)[i]);
	return (u8)-sum;
}

static struct table_header header(const char *signature, unsigned revision, size_t length)
{
	struct table_header h = {
		.length = (u32)length, .revision = (u8)revision, .oem_revision = 1, .creator_revision = 1
	};
	memcpy(h.signature, signature, 4);
	memcpy(h.oem_id, "STRATA", 6);
	memcpy(h.oem_table_id, "STRATAPC", 8);
	memcpy(h.creator_id, "STRA", 4);
	return h;
}

static gpa_t place_table(struct area *area, void *table, size_t size)
{
	struct table_header *h = table;
	h->checksum = 0;
	h->checksum = checksum(table, size);
	return place(area, table, size, 16);
}

/* --- the DSDT --- */

static void device(struct aml *aml, const char *name, const char *id)
{
	aml_begin_device(aml, name);
	aml_name_eisa_id(aml, "_HID", id);
}

/* Host bridge: what the PCI bus may use. */
static void describe_pci_windows(struct aml *aml)
{
	aml_begin_resources(aml);
	aml_window_bus(aml, 0, ACPI_PCI_LAST_BUS);
	aml_resource_io(aml, PCI_PORT_ADDRESS, PCI_PORTS);
	aml_window_io(aml, 0, PCI_PORT_ADDRESS - 1);
	aml_window_io(aml, PCI_PORT_ADDRESS + PCI_PORTS, 0xffff);
	aml_window_memory32(aml, (u32)ACPI_PCI_MEM_FIRST, (u32)ACPI_PCI_MEM_LAST);
	aml_window_memory64(aml, ACPI_PCI_MEM64_FIRST, ACPI_PCI_MEM64_LAST);
	aml_end_resources(aml);
}

static void describe_com1(struct aml *aml)
{
	device(aml, "COM1", "PNP0501");
	aml_name_integer(aml, "_UID", 1);
	aml_begin_resources(aml);
	aml_resource_io(aml, COM1_BASE, UART_PORTS);
	aml_resource_irq(aml, GSI_COM1);
	aml_end_resources(aml);
	aml_end(aml);
}

static void describe_rtc(struct aml *aml)
{
	device(aml, "RTC", "PNP0B00");
	aml_begin_resources(aml);
	aml_resource_io(aml, 0x70, RTC_PORTS);
	aml_resource_irq(aml, GSI_RTC);
	aml_end_resources(aml);
	aml_end(aml);
}

static void describe_fw_cfg(struct aml *aml)
{
	aml_begin_device(aml, "FWCF");
	aml_name(aml, "_HID");
	aml_string(aml, "QEMU0002"); /* the identifier that drivers of this interface look for */
	aml_name_integer(aml, "_STA", 0xb);
	aml_begin_resources(aml);
	aml_resource_io(aml, FW_CFG_PORT, FW_CFG_PORTS);
	aml_end_resources(aml);
	aml_end(aml);
}

/* Ranges of the chip set that belong to no device, lest the guest gives them to one. */
static void describe_motherboard(struct aml *aml)
{
	device(aml, "MBRD", "PNP0C02");
	aml_begin_resources(aml);
	aml_resource_io(aml, PM_BASE, PM_SIZE);
	aml_resource_io(aml, PM_SMI_CMD, 2);
	aml_resource_memory(aml, MEM_ECAM_BASE, MEM_ECAM_SIZE);
	aml_resource_memory(aml, IOAPIC_DEFAULT_BASE, IOAPIC_PAGE_SIZE);
	aml_resource_memory(aml, LAPIC_DEFAULT_BASE, LAPIC_PAGE_SIZE);
	aml_end_resources(aml);
	aml_end(aml);
}

static void describe_hpet(struct aml *aml)
{
	device(aml, "HPET", "PNP0103");
	aml_begin_resources(aml);
	aml_resource_memory(aml, HPET_DEFAULT_BASE, HPET_PAGE_SIZE);
	aml_end_resources(aml);
	aml_end(aml);
}

static void describe_pci(struct aml *aml)
{
	device(aml, "PCI0", "PNP0A08");
	aml_name_eisa_id(aml, "_CID", "PNP0A03");
	aml_name_integer(aml, "_UID", 0);
	aml_name_integer(aml, "_BBN", 0);
	aml_name_integer(aml, "_SEG", 0);
	describe_pci_windows(aml);
	/* The guest may control everything PCI Express: no firmware competes, so what is asked for is granted. */
	aml_begin_method(aml, "_OSC", 4);
	aml_return_argument(aml, 3);
	aml_end(aml);
	aml_begin_device(aml, "LPC");
	aml_name_integer(aml, "_ADR", 0x1f0000);
	describe_com1(aml);
	describe_rtc(aml);
	aml_end(aml);
	aml_end(aml);
}

static void describe_cpus(struct aml *aml, unsigned cpus)
{
	static const char digit[] = "0123456789ABCDEF";
	for (unsigned i = 0; i < cpus; i++) {
		char name[5] = { 'C', '0', digit[i >> 4 & 15], digit[i & 15], 0 };
		aml_begin_device(aml, name);
		aml_name(aml, "_HID");
		aml_string(aml, "ACPI0007");
		aml_name_integer(aml, "_UID", i);
		aml_end(aml);
	}
}

/* A sleep state: SLP_TYP for PM1a and PM1b. */
static void describe_sleep(struct aml *aml, const char *name, unsigned type)
{
	aml_name(aml, name);
	aml_begin_package(aml, 4);
	aml_integer(aml, type);
	aml_integer(aml, type);
	aml_integer(aml, 0);
	aml_integer(aml, 0);
	aml_end(aml);
}

static gpa_t place_dsdt(struct area *area, unsigned cpus, bool hpet)
{
	u8 bytes[0x8000];
	struct table_header *h = (struct table_header *)bytes;
	struct aml aml;
	aml_init(&aml, bytes + sizeof *h, sizeof bytes - sizeof *h);
	describe_sleep(&aml, "\\_S3", PM_SLEEP_S3);
	describe_sleep(&aml, "\\_S5", PM_SLEEP_S5);
	aml_begin_scope(&aml, "\\_SB");
	describe_cpus(&aml, cpus);
	describe_pci(&aml);
	if (hpet)
		describe_hpet(&aml);
	describe_fw_cfg(&aml);
	describe_motherboard(&aml);
	aml_end(&aml);
	assert(!aml.full && aml.depth == 0);
	*h = header("DSDT", 2, sizeof *h + aml.at);
	return place_table(area, bytes, h->length);
}

/* --- the other tables --- */

static struct address port(u64 base, unsigned bytes, unsigned access)
{
	return (struct address){ SPACE_IO, (u8)(bytes * 8), 0, (u8)access, base };
}

static gpa_t place_fadt(struct area *area, gpa_t facs, gpa_t dsdt)
{
	struct fadt t = {
		.header = header("FACP", 6, sizeof t),
		.minor = 5,
		.facs = (u32)facs,
		.dsdt = (u32)dsdt,
		.x_dsdt = dsdt, /* x_facs stays 0: either of the two may be given, not both */
		.sci = GSI_SCI,
		.smi_command = PM_SMI_CMD,
		.acpi_enable = PM_ACPI_ENABLE,
		.acpi_disable = PM_ACPI_DISABLE,
		.pm1a_event = PM_PM1_EVT,
		.pm1_event_length = 4,
		.pm1a_control = PM_PM1_CNT,
		.pm1_control_length = 2,
		.pm_timer = PM_TIMER,
		.pm_timer_length = 4,
		.gpe0 = PM_GPE0,
		.gpe0_length = 16,
		.c2_latency = 0xfff, /* above 100 and 1000: no C2, no C3 */
		.c3_latency = 0xfff,
		.century = 0x32,
		.boot_flags = FADT_LEGACY_DEVICES | FADT_NO_VGA | FADT_NO_ASPM,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_TMR_VAL_EXT | FADT_RESET_REG,
		.reset = port(0xcf9, 1, ACCESS_BYTE),
		.reset_value = 0x0e, /* full reset, by the power planes */
		.x_pm1a_event = port(PM_PM1_EVT, 4, ACCESS_WORD),
		.x_pm1a_control = port(PM_PM1_CNT, 2, ACCESS_WORD),
		.x_pm_timer = port(PM_TIMER, 4, ACCESS_DWORD),
		.x_gpe0 = port(PM_GPE0, 16, ACCESS_BYTE),
	};
	return place_table(area, &t, sizeof t);
}

static gpa_t place_facs(struct area *area)
{
	struct facs t = { .signature = { 'F', 'A', 'C', 'S' }, .length = sizeof t, .version = 2 };
	gpa_t at = place(area, &t, sizeof t, 64); /* has no checksum */
	assert(at == ACPI_FACS);
	return at;
}

bool acpi_waking_vector(const struct mem *mem, u64 *vector)
{
	struct facs facs;
	mem_read(mem, ACPI_FACS, &facs, sizeof facs);
	bool flat = facs.x_waking_vector != 0;
	*vector = flat ? facs.x_waking_vector : facs.waking_vector;
	return flat;
}

/* A table that grows: entries of different sizes behind a header. */
struct growing {
	u8 bytes[0x2000];
	size_t at;
};

static void append(struct growing *table, const void *entry, size_t size)
{
	assert(size <= sizeof table->bytes - table->at);
	memcpy(table->bytes + table->at, entry, size);
	table->at += size;
}

static void append_cpu(struct growing *t, unsigned i)
{
	if (i < XAPIC_IDS) {
		struct madt_lapic cpu = { MADT_LAPIC, sizeof cpu, (u8)i, (u8)i, MADT_ENABLED };
		append(t, &cpu, sizeof cpu);
	} else {
		struct madt_x2apic cpu = { MADT_X2APIC, sizeof cpu, 0, i, MADT_ENABLED, i };
		append(t, &cpu, sizeof cpu);
	}
}

static gpa_t place_madt(struct area *area, unsigned cpus)
{
	struct growing t = { .at = sizeof(struct madt) };
	struct madt_ioapic ioapic = { MADT_IOAPIC, sizeof ioapic, 0, 0, (u32)IOAPIC_DEFAULT_BASE, 0 };
	struct madt_override timer = { MADT_OVERRIDE, sizeof timer, 0, ISA_TIMER, GSI_TIMER, 0 };
	struct madt_override sci = { MADT_OVERRIDE, sizeof sci, 0, GSI_SCI, GSI_SCI, MADT_ACTIVE_HIGH | MADT_LEVEL };
	struct madt_lapic_nmi nmi = { MADT_LAPIC_NMI, sizeof nmi, MADT_ALL_XAPIC, 0, LINT_NMI };
	struct madt_x2apic_nmi nmi_x2 = { MADT_X2APIC_NMI, sizeof nmi_x2, 0, MADT_ALL_X2APIC, LINT_NMI, { 0 } };

	for (unsigned i = 0; i < cpus; i++)
		append_cpu(&t, i);
	append(&t, &ioapic, sizeof ioapic);
	append(&t, &timer, sizeof timer);
	append(&t, &sci, sizeof sci);
	append(&t, &nmi, sizeof nmi);
	if (cpus > XAPIC_IDS)
		append(&t, &nmi_x2, sizeof nmi_x2);
	struct madt madt = { header("APIC", 5, t.at), (u32)LAPIC_DEFAULT_BASE, MADT_PCAT_COMPAT };
	memcpy(t.bytes, &madt, sizeof madt);
	return place_table(area, t.bytes, t.at);
}

static gpa_t place_hpet(struct area *area)
{
	struct hpet_table t = {
		.header = header("HPET", 1, sizeof t),
		.id = HPET_ID,
		.base = { SPACE_MEMORY, 64, 0, 0, HPET_DEFAULT_BASE },
		.minimum_tick = 100,
	};
	return place_table(area, &t, sizeof t);
}

static gpa_t place_mcfg(struct area *area)
{
	struct mcfg t = { .header = header("MCFG", 1, sizeof t), .base = MEM_ECAM_BASE, .last_bus = ACPI_PCI_LAST_BUS };
	return place_table(area, &t, sizeof t);
}

static gpa_t place_xsdt(struct area *area, const gpa_t *tables, unsigned count)
{
	struct growing t = { .at = sizeof(struct table_header) };
	append(&t, tables, count * sizeof tables[0]);
	struct table_header h = header("XSDT", 1, t.at);
	memcpy(t.bytes, &h, sizeof h);
	return place_table(area, t.bytes, t.at);
}

/* First in the area: that is where those look who are not told. */
static void fill_rsdp(struct area *area, gpa_t xsdt)
{
	struct rsdp t = { .revision = 2, .length = sizeof t, .xsdt = xsdt };
	memcpy(t.signature, "RSD PTR ", 8);
	memcpy(t.oem_id, "STRATA", 6);
	t.checksum = checksum(&t, 20);
	t.extended_checksum = checksum(&t, sizeof t);
	memcpy(area->bytes, &t, sizeof t);
}

gpa_t acpi_write_tables(struct mem *mem, unsigned cpus, bool hpet)
{
	struct area area;
	memset(&area, 0, sizeof area);
	area.at = sizeof(struct rsdp);
	gpa_t facs = place_facs(&area), dsdt = place_dsdt(&area, cpus, hpet);
	gpa_t tables[4] = { place_fadt(&area, facs, dsdt), place_madt(&area, cpus), place_mcfg(&area) };
	if (hpet)
		tables[3] = place_hpet(&area);
	fill_rsdp(&area, place_xsdt(&area, tables, hpet ? 4 : 3));
	mem_write(mem, ACPI_BASE, area.bytes, area.at);
	return ACPI_BASE;
}
