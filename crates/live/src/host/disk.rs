//! The disks of the source.

use super::hardware::{one_line, serial};
use super::machine::{BlockDevice, Machine};
use super::reader::DiskReader;
use super::table;
use carreto_block::AlignedBuf;
use carreto_error::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, like `vda`.
    pub name: String,
    /// The node in `/dev`.
    pub path: PathBuf,
    /// Major and minor number.
    pub devno: (u32, u32),
    /// The kernel's number of this attachment (Linux 5.15).
    pub diskseq: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// The logical block size in bytes.
    pub sector: u32,
    /// The serial number that the hardware or the hypervisor gave.
    pub serial: Option<String>,
    /// The world-wide name of the hardware.
    pub wwn: Option<String>,
    /// What the hardware calls itself.
    pub model: Option<String>,
    /// The GUID of the GPT, or the signature of the MBR; none when the disk cannot be read.
    pub table_id: Option<String>,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
}

impl Disk {
    /// What stays over a restart of the system and tells this disk from others: the best name
    /// that there is, and the size. A disk without any is called by the kernel's name, which
    /// another disk may get.
    pub fn identity(&self) -> String {
        let names = [("wwn", &self.wwn), ("serial", &self.serial), ("table", &self.table_id)];
        let best = names.into_iter().find_map(|(kind, name)| Some((kind, name.as_ref()?)));
        let (kind, name) = best.unwrap_or(("name", &self.name));
        format!("{kind}:{name}:{}", self.size)
    }
}

/// The physical disks, by name: SCSI and SATA, virtio, Xen, `NVMe`, SD cards. No loop, RAM, device
/// mapper or RAID devices, no drives without a medium.
///
/// # Errors
/// `Unsupported` when a disk is a path of a multipath device, which is the same disk again;
/// `Io` when the system does not say what a disk is.
pub fn disks() -> Result<Vec<Disk>> {
    disks_of(&Machine::here())
}

/// The whole disk at `path`, which may be a link like those in `/dev/disk/by-id`, and may be a
/// loop device.
///
/// # Errors
/// `NotFound`; `Usage` for what is no whole disk, with the disk below it in the remedy; `Usage`
/// for a drive without a medium; `Unsupported` as [`disks`].
pub fn disk_at(path: &Path) -> Result<Disk> {
    at(&Machine::here(), path)
}

/// Another text for every start of the kernel (`random(4)`); empty where the system hides it.
pub fn boot_id() -> String {
    Machine::here().text("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The release of the running kernel.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(super) fn disks_of(machine: &Machine) -> Result<Vec<Disk>> {
    let names = machine.names("/sys/block");
    let devices = names.iter().filter(|name| is_physical(name));
    let devices = devices.filter_map(|name| machine.device_named(name));
    let here = devices.filter(|device| device.size().is_some_and(|size| size > 0));
    here.filter(|device| device.integer("hidden") != Some(1))
        .map(|device| describe(machine, &device))
        .collect()
}

fn is_physical(name: &str) -> bool {
    let families = ["sd", "vd", "xvd", "hd", "dasd"];
    let lettered = families.into_iter().any(|family| {
        let rest = name.strip_prefix(family).unwrap_or_default();
        rest.starts_with(|c: char| c.is_ascii_lowercase())
    });
    // The boot areas of an eMMC are disks of their own to Linux, but firmware to everyone else.
    let card = name.strip_prefix("mmcblk").is_some_and(is_number);
    lettered || card || name.starts_with("nvme")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn at(machine: &Machine, path: &Path) -> Result<Disk> {
    let name = path.to_string_lossy().into_owned();
    let Some(number) = machine.number_at(path) else {
        let found = machine.path(path).exists();
        return Err(if found {
            Error::new(Kind::Usage, "it is no block device").path(name)
        } else {
            Error::new(Kind::NotFound, "it does not exist").path(name)
        });
    };
    let device = machine.device(number).ok_or_else(|| {
        let text = "the system knows nothing of this device in /sys";
        Error::new(Kind::Io, text).path(&name)
    })?;
    refuse_parts(&device, &name)?;
    let disk = describe(machine, &device)?;
    if disk.size == 0 {
        let text = "the device has no medium: its size is 0";
        return Err(Error::new(Kind::Usage, text).path(name).remedied_by("insert a medium"));
    }
    Ok(disk)
}

/// Whole disks are migrated: what lies on them comes along.
fn refuse_parts(device: &BlockDevice, name: &str) -> Result<()> {
    let what = if device.is_partition() {
        "a partition"
    } else if device.has("dm") {
        "a volume of the device mapper"
    } else if device.has("md") {
        "a RAID device"
    } else if device.has("bcache") && !device.slaves().is_empty() {
        "a cached device"
    } else {
        return Ok(());
    };
    let below: Vec<_> = whole_disks(device).iter().map(|disk| shown(&disk.node())).collect();
    let text = format!("it is {what}, expected a whole disk");
    let remedy = format!("name the whole disk below it: {}", below.join(", "));
    Err(Error::new(Kind::Usage, text).path(name).remedied_by(remedy))
}

/// The disks at the bottom of a device.
fn whole_disks(device: &BlockDevice) -> Vec<BlockDevice> {
    let (mut bottom, mut seen, mut todo) = (Vec::new(), Vec::new(), vec![device.clone()]);
    while let Some(next) = todo.pop() {
        if seen.contains(&next) {
            continue;
        }
        let mut below = next.slaves();
        below.extend(next.disk());
        if below.is_empty() {
            bottom.push(next.clone());
        }
        todo.extend(below);
        seen.push(next);
    }
    bottom.sort();
    bottom
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn describe(machine: &Machine, device: &BlockDevice) -> Result<Disk> {
    let path = device.node();
    let missing = |what: &str| {
        Error::new(Kind::Io, format!("/sys does not say the {what}")).path(shown(&path))
    };
    refuse_multipath(device)?;
    let sector = device.integer("queue/logical_block_size");
    let sector = sector.and_then(|bytes| u32::try_from(bytes).ok());
    let mut disk = Disk {
        name: device.name(),
        devno: device.number().ok_or_else(|| missing("number"))?,
        diskseq: device.integer("diskseq"),
        size: device.size().ok_or_else(|| missing("size"))?,
        sector: sector.filter(|bytes| bytes.is_power_of_two()).unwrap_or(512),
        serial: serial(device),
        wwn: ["wwid", "device/wwid"].into_iter().find_map(|name| one_line(device, name)),
        model: one_line(device, "device/model").or_else(|| one_line(device, "device/name")),
        table_id: None,
        read_only: device.integer("ro") == Some(1),
        path: machine.path(&path),
    };
    disk.table_id = table_of(&disk);
    Ok(disk)
}

/// A write through another path would be seen on that one alone.
fn refuse_multipath(device: &BlockDevice) -> Result<()> {
    let multipath = |holder: &BlockDevice| {
        holder.text("dm/uuid").is_some_and(|uuid| uuid.starts_with("mpath-"))
    };
    match device.holders().iter().find(|holder| multipath(holder)) {
        None => Ok(()),
        Some(holder) => {
            let node = shown(&holder.node());
            let text = format!("it is one path of the multipath device {node}");
            Err(Error::new(Kind::Unsupported, text).path(shown(&device.node())).remedied_by(
                "remove the other paths and the multipath device, or name the other disks alone",
            ))
        }
    }
}

fn table_of(disk: &Disk) -> Option<String> {
    let reader = DiskReader::open(disk).ok()?;
    let size = usize::try_from(disk.size).unwrap_or(usize::MAX).min(table::HEAD);
    let mut head = AlignedBuf::zeroed(size).ok()?;
    reader.read_at(0, &mut head).ok()?;
    table::id(&head, disk.sector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Fake;

    #[test]
    fn the_physical_disks_with_a_medium_are_listed() {
        let fake = Fake::new();
        fake.disk("vda", (254, 0), 8 << 20).attribute("vda", "serial", "S-1\n");
        fake.disk("sda", (8, 0), 4 << 20).attribute("sda", "device/wwid", "naa.5000c500a1b2c3d4\n");
        fake.attribute("sda", "device/model", "QEMU HARDDISK   \n")
            .attribute("sda", "diskseq", "9");
        fake.attribute("sda", "device/vpd_pg80", "\0\u{1}\0\u{4}AB C rest");
        fake.attribute("sda", "queue/logical_block_size", "4096").attribute("sda", "ro", "1");
        fake.disk("nvme0n1", (259, 0), 4 << 20).disk("nvme0c0n1", (259, 1), 4 << 20);
        fake.attribute("nvme0c0n1", "hidden", "1");
        fake.disk("mmcblk0", (179, 0), 4 << 20).disk("mmcblk0boot0", (179, 8), 1 << 20);
        fake.disk("sr0", (11, 0), 1 << 20).disk("loop0", (7, 0), 1 << 20).disk("sdb", (8, 16), 0);
        fake.disk("dm-0", (253, 0), 1 << 20).disk("zram0", (252, 0), 1 << 20);
        fake.disk("md0", (9, 0), 1 << 20).disk("fd0", (2, 0), 1 << 20).disk(
            "ram0",
            (1, 0),
            1 << 20,
        );
        let list = disks_of(&fake.machine()).unwrap();
        let names: Vec<_> = list.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["mmcblk0", "nvme0n1", "sda", "vda"]);
        let sda = &list[2];
        assert_eq!(
            (sda.devno, sda.diskseq, sda.size, sda.sector),
            ((8, 0), Some(9), 4 << 20, 4096)
        );
        assert_eq!(sda.serial.as_deref(), Some("AB C"));
        assert_eq!(sda.model.as_deref(), Some("QEMU HARDDISK"));
        assert!(sda.read_only && !list[3].read_only);
        assert_eq!(sda.identity(), "wwn:naa.5000c500a1b2c3d4:4194304");
        assert_eq!(list[3].identity(), "serial:S-1:8388608");
        assert_eq!(list[0].identity(), "name:mmcblk0:4194304");
    }

    #[test]
    fn partitions_and_volumes_are_refused_with_the_disk_below() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 8 << 20).partition("sda", "sda2", (8, 2), 2048, 4096);
        fake.disk("sdb", (8, 16), 8 << 20).disk("dm-0", (253, 0), 8 << 20);
        fake.attribute("dm-0", "dm/name", "vg-root")
            .built_on("dm-0", "sda2")
            .built_on("dm-0", "sdb");
        fake.link("/dev/mapper/vg-root", "../dm-0").link("/dev/disk/by-id/wwn-1", "../../sdb");
        let machine = fake.machine();
        let error = at(&machine, Path::new("/dev/sda2")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert_eq!(error.remedy(), "name the whole disk below it: /dev/sda");
        let error = at(&machine, Path::new("/dev/mapper/vg-root")).unwrap_err();
        assert_eq!(error.remedy(), "name the whole disk below it: /dev/sda, /dev/sdb");
        assert_eq!(at(&machine, Path::new("/dev/disk/by-id/wwn-1")).unwrap().name, "sdb");
        assert_eq!(at(&machine, Path::new("/dev/none")).unwrap_err().kind(), Kind::NotFound);
        fake.file("/dev/plain", "");
        assert_eq!(at(&machine, Path::new("/dev/plain")).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_path_of_a_multipath_device_is_refused() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 8 << 20).disk("dm-0", (253, 0), 8 << 20).built_on("dm-0", "sda");
        fake.attribute("dm-0", "dm/uuid", "mpath-36000\n");
        assert_eq!(disks_of(&fake.machine()).unwrap_err().kind(), Kind::Unsupported);
    }
}
