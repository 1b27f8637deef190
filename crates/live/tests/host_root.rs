//! Disks, freezing and the watchdog on loop devices: what only root can set up.
#![allow(clippy::unwrap_used, reason = "tests")]

mod host_support;

use carreto_error::Kind;
use carreto_live::host::{
    DiskReader, Freezable, Freezer, disk_at, expect_whole, file_systems, raw_users, thaw_all,
    wait_for_writes, watchdog_main,
};
use host_support::{
    Agent, ROLE, SOON, Scene, Shell, Writer, agent, allowed, freezer, is_frozen, run, tell,
    this_binary, watchdog, works,
};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(80);
/// How long a thaw after the agent's death and a write may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Not a test: what the other processes of these tests do.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("watchdog") => watchdog_main(std::io::stdin()).unwrap(),
        Ok("agent") => agent(),
        _ => {}
    }
}

#[test]
fn all_kinds_are_frozen_in_order_and_thawed() {
    let Some(_alone) = allowed("all_kinds_are_frozen_in_order_and_thawed") else { return };
    let mut scene = Scene::new();
    let (ext4, outer) = scene.file_system("ext4", 128 * MIB, "outer");
    let (xfs, other) = scene.file_system("xfs", 320 * MIB, "other xfs");
    let one = scene.device("one.img", 256 * MIB);
    let two = scene.device("two.img", 256 * MIB);
    let (one_name, two_name) = (one.to_str().unwrap(), two.to_str().unwrap());
    run("mkfs.btrfs", &["-q", "-d", "raid1", one_name, two_name]);
    let tree = scene.mount(&[one_name], "tree");
    run("btrfs", &["subvolume", "create", tree.join("sub").to_str().unwrap()]);
    scene.mount(&["-o", "subvol=sub", one_name], "subvolume");
    scene.mount(&["--bind", outer.to_str().unwrap()], "again");
    let quiet_device = scene.device("quiet.img", 64 * MIB);
    run("mkfs.ext4", &["-q", quiet_device.to_str().unwrap()]);
    let quiet = scene.mount(&["-o", "ro", quiet_device.to_str().unwrap()], "quiet");
    let image = scene.path("image");
    let folder = env!("CARGO_MANIFEST_DIR");
    run("mksquashfs", &[folder, image.to_str().unwrap(), "-quiet", "-no-progress"]);
    let fixed_device = scene.attach(&image);
    let fixed = scene.mount(&[fixed_device.to_str().unwrap()], "fixed");
    // A file system in a file of the first one, mounted last but one layer up.
    let file = scene.file("outer/inner.img", 64 * MIB);
    let inner_device = scene.attach(&file);
    run("mkfs.ext4", &["-q", inner_device.to_str().unwrap()]);
    let inner = scene.mount(&[inner_device.to_str().unwrap()], "inner");

    // By its second member alone, and by the devices that hold the others.
    let devices = [&*ext4, &*xfs, &*two, &*quiet_device, &*fixed_device];
    let mut systems = scene.systems(&devices);
    let points: Vec<_> = systems.iter().map(|system| system.mount_point.as_path()).collect();
    assert_eq!(points, [&*inner, &*fixed, &*quiet, &*tree, &*other, &*outer]);
    assert!(matches!(systems[1].freezable, Freezable::No(_)));
    assert!(systems[2].read_only && !systems[3].read_only);
    // The kernel knows too.
    systems[1].freezable = Freezable::Yes;

    let all = [&inner, &tree, &other, &outer];
    let frozen = Freezer::prepare(&systems, LONG, &watchdog(&this_binary())).unwrap();
    let mut frozen = frozen.freeze().unwrap();
    let mut writers: Vec<_> = all.map(|point| Writer::start(&point.join("new"))).into();
    std::thread::sleep(Duration::from_millis(700));
    assert!(writers.iter_mut().all(|writer| !writer.ends_within(Duration::ZERO)));
    frozen.renew().unwrap();
    frozen.check_complete(&scene.systems(&devices)).unwrap();
    let unfrozen: Vec<_> = frozen.unfrozen().iter().map(|one| one.mount_point.clone()).collect();
    assert_eq!(unfrozen, [fixed]);
    assert!(matches!(frozen.unfrozen()[0].freezable, Freezable::No(_)));
    let pause = frozen.thaw().unwrap();
    assert!(pause >= Duration::from_millis(700) && pause < Duration::from_secs(20), "{pause:?}");
    assert!(writers.iter_mut().all(|writer| writer.ends_within(SOON)));
    assert_eq!(thaw_all(&systems).unwrap(), Vec::<std::path::PathBuf>::new());
}

/// Sections, journals and members on a second device, as the kernel tells of each.
#[test]
fn what_lies_on_another_device_too_is_named() {
    let Some(_alone) = allowed("what_lies_on_another_device_too_is_named") else { return };
    let mut scene = Scene::new();
    for kind in ["ext4", "xfs", "btrfs"] {
        let first = scene.device(&format!("{kind}1.img"), 400 * MIB);
        let second = scene.device(&format!("{kind}2.img"), 400 * MIB);
        let (one, two) = (first.to_str().unwrap(), second.to_str().unwrap());
        let log = format!("logdev={two}");
        let mut options = vec![one];
        match kind {
            "ext4" => {
                run("mke2fs", &["-q", "-O", "journal_dev", two]);
                run("mkfs.ext4", &["-q", "-J", &format!("device={two}"), one]);
            }
            "xfs" => {
                run("mkfs.xfs", &["-q", "-l", &log, one]);
                options = vec!["-o", &log, one];
            }
            _ => drop(run("mkfs.btrfs", &["-q", "-d", "raid1", one, two])),
        }
        scene.mount(&options, kind);
        let systems = scene.systems(&[&first]);
        // The disk below the file of the second device would do as well, and is named.
        assert!(systems.len() == 1 && !systems[0].missing.is_empty(), "{kind}: {systems:?}");
        assert_eq!(expect_whole(&systems).unwrap_err().kind(), Kind::SourceChanged);
        expect_whole(&scene.systems(&[&first, &second])).unwrap();
        assert_eq!(raw_users(&[disk_at(&second).unwrap()]), [], "{kind}");
    }
}

#[test]
fn a_killed_agent_leaves_nothing_frozen() {
    let Some(_alone) = allowed("a_killed_agent_leaves_nothing_frozen") else { return };
    let mut scene = Scene::new();
    let (device, point) = scene.file_system("ext4", 64 * MIB, "data");
    let (second, other) = scene.file_system("xfs", 320 * MIB, "more");
    let mut agent = Agent::start(&this_binary(), &[&device, &second], LONG);
    agent.wait_for("frozen");
    assert!(is_frozen(&point) && is_frozen(&other));
    let mut writers = [Writer::start(&point.join("w")), Writer::start(&other.join("w"))];
    agent.signal("KILL");
    let killed = Instant::now();
    assert!(writers.iter_mut().all(|writer| writer.ends_within(AT_ONCE)));
    tell(&format!("thawed {:?} after the agent was killed", killed.elapsed()));
}

/// Before the lease begins, between two file systems, inside the call that freezes, after all.
#[test]
fn an_agent_killed_at_any_moment_leaves_nothing_frozen() {
    let Some(_alone) = allowed("an_agent_killed_at_any_moment_leaves_nothing_frozen") else {
        return;
    };
    let mut scene = Scene::new();
    let (ext4, first) = scene.file_system("ext4", 256 * MIB, "first");
    let (xfs, second) = scene.file_system("xfs", 320 * MIB, "second");
    let (btrfs, third) = scene.file_system("btrfs", 256 * MIB, "third");
    let points = [&*first, &*second, &*third];
    let mut rng = carreto_testkit::Rng::new(11);
    let (mut frozen_first, mut slowest) = (0, Duration::ZERO);
    for _ in 0..30 {
        let loads = points.map(|point| {
            let script = "echo up; while :; do dd if=/dev/zero of=$0/load bs=64k count=160 \
                status=none; done";
            Shell::start(Command::new("sh").args(["-c", script]).arg(point))
        });
        let mut agent = Agent::start(&this_binary(), &[&*ext4, &*xfs, &*btrfs], LONG);
        agent.wait_for("freezing");
        std::thread::sleep(Duration::from_micros(rng.below(900_000)));
        agent.signal("KILL");
        let killed = Instant::now();
        frozen_first += u32::from(agent.says_now("frozen"));
        assert!(points.iter().all(|point| works(point)));
        slowest = slowest.max(killed.elapsed());
        drop(loads);
    }
    assert!(slowest < LONG / 2);
    tell(&format!(
        "30 agents killed, {frozen_first} of them after the freeze; slowest {slowest:?}"
    ));
}

#[test]
fn an_agent_that_hangs_loses_its_lease() {
    let Some(_alone) = allowed("an_agent_that_hangs_loses_its_lease") else { return };
    let mut scene = Scene::new();
    let (device, point) = scene.file_system("ext4", 64 * MIB, "data");
    let mut agent = Agent::start(&this_binary(), &[&device], Duration::from_secs(3));
    agent.wait_for("frozen");
    let begun = Instant::now();
    agent.signal("STOP");
    let mut writer = Writer::start(&point.join("w"));
    assert!(!writer.ends_within(Duration::from_secs(1)));
    assert!(writer.ends_within(Duration::from_secs(4)));
    tell(&format!("thawed {:?} after a freeze with a lease of 3 s", begun.elapsed()));
    agent.go_on();
    agent.signal("CONT");
    assert!(agent.wait_for("renewed").contains("the lease of 3 s ran out"));
    assert!(agent.wait_for("thawed").contains("the lease of 3 s ran out"));
}

/// The agent and its watchdog lie on what they freeze, and nothing of them is cached but what is
/// locked.
#[test]
fn the_binary_may_lie_on_what_is_frozen() {
    let Some(_alone) = allowed("the_binary_may_lie_on_what_is_frozen") else { return };
    for (kind, size) in [("ext4", 320), ("xfs", 512), ("btrfs", 512)] {
        let mut scene = Scene::new();
        let (device, point) = scene.file_system(kind, size * MIB, "data");
        let binary = point.join("carreto");
        std::fs::copy(this_binary(), &binary).unwrap();
        run("mount", &["-o", "remount,strictatime", point.to_str().unwrap()]);
        run("sync", &["-f", point.to_str().unwrap()]);
        let mut agent = Agent::start(&binary, &[&device], LONG);
        agent.wait_for("frozen");
        let mut writer = Writer::start(&point.join("w"));
        assert!(!writer.ends_within(Duration::from_millis(500)), "{kind}");
        // Reading and starting it still works, past what is cached too.
        run("dd", &[&format!("if={}", binary.display()), "of=/dev/null", "iflag=direct", "bs=1M"]);
        run(binary.to_str().unwrap(), &["--list"]);
        agent.signal("KILL");
        assert!(writer.ends_within(AT_ONCE), "{kind}");
        drop(agent);

        let mut agent = Agent::start(&binary, &[&device], LONG);
        agent.wait_for("frozen");
        agent.go_on();
        assert!(agent.wait_for("renewed").contains("Ok"), "{kind}");
        assert!(agent.wait_for("thawed").contains("Ok"), "{kind}");
    }
}

#[test]
fn what_others_froze_is_refused_and_stays() {
    let Some(_alone) = allowed("what_others_froze_is_refused_and_stays") else { return };
    let mut scene = Scene::new();
    let (first, mine) = scene.file_system("ext4", 64 * MIB, "mine");
    let (second, theirs) = scene.file_system("ext4", 64 * MIB, "theirs");
    // Mounted later is frozen first.
    let freezer = freezer(&scene, &[&second, &first], LONG);
    run("fsfreeze", &["-f", mine.to_str().unwrap()]);
    let error = freezer.freeze().map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "{error}");
    assert!(works(&theirs), "rolled back");
    assert!(is_frozen(&mine), "not ours to thaw");
    run("fsfreeze", &["-u", mine.to_str().unwrap()]);
}

#[test]
fn a_thaw_by_others_is_found() {
    let Some(_alone) = allowed("a_thaw_by_others_is_found") else { return };
    let mut scene = Scene::new();
    let (device, point) = scene.file_system("ext4", 64 * MIB, "data");
    let mut frozen = freezer(&scene, &[&device], LONG).freeze().unwrap();
    frozen.renew().unwrap();
    run("fsfreeze", &["-u", point.to_str().unwrap()]);
    let error = frozen.renew().unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.to_string().contains("somebody else thawed"), "{error}");
    // Looking has frozen it again; what was written in between is not known for all that.
    let again = frozen.renew().unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    drop(frozen);
    assert!(works(&point));

    let frozen = freezer(&scene, &[&device], LONG).freeze().unwrap();
    run("fsfreeze", &["-u", point.to_str().unwrap()]);
    assert_eq!(frozen.thaw().unwrap_err().kind(), Kind::Timeout);
    assert!(works(&point));
}

/// The children of this process.
fn children() -> Vec<String> {
    let id = std::process::id().to_string();
    let output = Command::new("pgrep").args(["-P", &id, "-f", "exact role"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_watchdog_that_dies_or_hangs_is_noticed() {
    let Some(_alone) = allowed("a_watchdog_that_dies_or_hangs_is_noticed") else { return };
    let mut scene = Scene::new();
    let (device, point) = scene.file_system("ext4", 64 * MIB, "data");
    let mut frozen = freezer(&scene, &[&device], LONG).freeze().unwrap();
    let watchdog = children();
    assert_eq!(watchdog.len(), 1);
    // What ends other processes does not end this one.
    for signal in ["-HUP", "-TERM", "-INT"] {
        run("kill", &[signal, &watchdog[0]]);
    }
    frozen.renew().unwrap();
    run("kill", &["-KILL", &watchdog[0]]);
    assert_eq!(frozen.renew().unwrap_err().kind(), Kind::Timeout);
    drop(frozen);
    assert!(works(&point));

    let frozen = freezer(&scene, &[&device], LONG).freeze().unwrap();
    run("kill", &["-STOP", &children()[0]]);
    // Whoever waited for a watchdog that is stopped would wait for ever.
    drop(frozen);
    assert!(works(&point));
    assert!(children().is_empty());
}

#[test]
fn what_was_released_stays_frozen_until_it_is_thawed() {
    let Some(_alone) = allowed("what_was_released_stays_frozen_until_it_is_thawed") else { return };
    let mut scene = Scene::new();
    let (device, point) = scene.file_system("ext4", 64 * MIB, "data");
    let systems = scene.systems(&[&device]);
    let frozen = freezer(&scene, &[&device], Duration::from_secs(1)).freeze().unwrap();
    frozen.release_to_stay_frozen().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(is_frozen(&point));
    assert_eq!(thaw_all(&systems).unwrap(), [point.as_path()]);
    assert!(works(&point));
}

/// The file under the loop device is the oracle.
#[test]
fn the_reader_sees_what_was_written() {
    let Some(_alone) = allowed("the_reader_sees_what_was_written") else { return };
    let mut scene = Scene::new();
    let (device, point) = scene.file_system("ext4", 64 * MIB, "data");
    let disk = disk_at(&device).unwrap();
    assert_eq!((disk.size, disk.sector), (64 * MIB, 512));
    let reader = DiskReader::open(&disk).unwrap();
    let read = |reader: &DiskReader| {
        let mut bytes = carreto_block::AlignedBuf::zeroed(64 << 20).unwrap();
        reader.read_at(0, &mut bytes).unwrap();
        bytes.to_vec()
    };
    // Somebody caches the device as it is now.
    assert_eq!(std::fs::read(&device).unwrap().len(), 64 << 20);
    let old = vec![0x11; 1 << 20];
    let file = std::fs::File::create_new(point.join("file")).unwrap();
    file.write_all_at(&old, 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&vec![0x22; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let frozen = freezer(&scene, &[&device], LONG).freeze().unwrap();
    wait_for_writes(std::slice::from_ref(&disk), SOON).unwrap();
    let seen = read(&reader);
    reader.check_unchanged().unwrap();
    let beneath = std::fs::read(scene.path("data.img")).unwrap();
    frozen.thaw().unwrap();
    assert!(seen == beneath);
    // The file system's blocks are of 1 KiB.
    let new = seen.chunks(1024).filter(|block| block.iter().all(|byte| *byte == 0x22));
    assert!(new.count() >= 1024);

    let elsewhere = scene.file_system("ext4", 16 * MIB, "elsewhere").0;
    let frozen = freezer(&scene, &[&device], LONG).freeze().unwrap();
    let now = scene.systems(&[&device, &elsewhere]);
    assert_eq!(frozen.check_complete(&now).unwrap_err().kind(), Kind::SourceChanged);
    frozen.thaw().unwrap();

    let past = reader.read_at(64 * MIB, &mut carreto_block::AlignedBuf::zeroed(4096).unwrap());
    assert_eq!(past.unwrap_err().kind(), Kind::Internal);
    // The disk grows.
    let file = std::fs::File::options().write(true).open(scene.path("data.img")).unwrap();
    file.set_len(65 * MIB).unwrap();
    run("losetup", &["-c", device.to_str().unwrap()]);
    assert_eq!(reader.check_unchanged().unwrap_err().kind(), Kind::SourceChanged);
    let disk = disk_at(&device).unwrap();
    let mut other = disk.clone();
    other.size += 512;
    assert_eq!(DiskReader::open(&other).unwrap_err().kind(), Kind::SourceChanged);
    let mut other = disk.clone();
    other.diskseq = disk.diskseq.map(|number| number + 1);
    assert_eq!(DiskReader::open(&other).is_err(), disk.diskseq.is_some());
}

/// `sfdisk` names the tables.
#[test]
fn partitions_are_followed_and_their_tables_named() {
    let Some(_alone) = allowed("partitions_are_followed_and_their_tables_named") else { return };
    for label in ["gpt", "dos"] {
        let mut scene = Scene::new();
        let file = scene.file("disk.img", 128 * MIB);
        let name = file.to_str().unwrap();
        let mut sfdisk = Command::new("sfdisk");
        let mut sfdisk =
            sfdisk.args(["-q", name]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let script = format!("label: {label}\nsize=32MiB\nsize=64MiB\n");
        sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let device = scene.attach(&file);
        scene.read_partitions(&device);
        let part = format!("{}p2", device.display());
        run("mkfs.ext4", &["-q", &part]);
        let point = scene.mount(&[&part], "data");
        let systems = scene.systems(&[&device]);
        assert_eq!(systems.len(), 1);
        assert_eq!(systems[0].mount_point, point);
        let wanted = run("sfdisk", &["--disk-id", name]).trim_start_matches("0x").to_lowercase();
        assert_eq!(disk_at(&device).unwrap().table_id, Some(wanted), "{label}");
        let error = disk_at(Path::new(&part)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.remedy().ends_with(device.to_str().unwrap()), "{}", error.remedy());
    }
}

#[test]
fn programs_that_write_to_a_device_are_named() {
    let Some(_alone) = allowed("programs_that_write_to_a_device_are_named") else { return };
    let mut scene = Scene::new();
    let device = scene.device("raw.img", 8 * MIB);
    let disk = disk_at(&device).unwrap();
    assert_eq!(raw_users(std::slice::from_ref(&disk)), []);
    let users = || raw_users(std::slice::from_ref(&disk));
    let script = format!("exec 3<>{}; echo up; read line", device.display());
    let user = Shell::start(Command::new("sh").args(["-c", &script]));
    let list = users();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((list[0].process, list[0].command.as_str()), (Some(user.id()), "sh"));
    drop(user);
    assert_eq!(users(), []);
    // What has it for itself and does not show is taken for the kernel.
    let script = "import os, sys; os.open(sys.argv[1], os.O_EXCL); print('up'); sys.stdin.read()";
    let python = Shell::start(Command::new("python3").args(["-uc", script]).arg(&device));
    assert_eq!(python.line, "up");
    assert_eq!(users().iter().map(|user| user.process).collect::<Vec<_>>(), [None]);
    drop(python);
    assert_eq!(users(), []);
}

/// A container has mounted one file system, and another one lies in a file on it.
#[test]
fn what_only_a_container_sees_is_frozen_too() {
    let Some(_alone) = allowed("what_only_a_container_sees_is_frozen_too") else { return };
    let mut shell = Vec::new();
    let mut scene = Scene::new();
    let device = scene.device("data.img", 64 * MIB);
    run("mkfs.ext4", &["-q", device.to_str().unwrap()]);
    let hidden = scene.path("hidden");
    std::fs::create_dir(&hidden).unwrap();
    let script = "mount $0 $1 && truncate -s 32M $1/inner.img && \
        losetup --find --show $1/inner.img && read line";
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(&device).arg(&hidden);
    shell.push(Shell::start(&mut command));
    let inner_device = std::path::PathBuf::from(&shell[0].line);
    scene.adopt(&inner_device);
    run("mkfs.ext4", &["-q", inner_device.to_str().unwrap()]);
    let inner = scene.mount(&[inner_device.to_str().unwrap()], "inner");

    let systems = file_systems(&[disk_at(&device).unwrap()]).unwrap();
    let outer = format!("/proc/{}/root{}", shell[0].id(), hidden.display());
    let points: Vec<_> = systems.iter().map(|system| system.mount_point.as_path()).collect();
    assert_eq!(points, [&*inner, Path::new(&outer)]);
    let freezer = Freezer::prepare(&systems, LONG, &watchdog(&this_binary())).unwrap();
    let frozen = freezer.freeze().unwrap();
    assert!(is_frozen(&inner) && is_frozen(Path::new(&outer)));
    frozen.thaw().unwrap();
    assert!(works(&inner) && works(Path::new(&outer)));
    drop(scene);
}
