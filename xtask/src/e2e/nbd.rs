//! Suite `nbd`: exports of qemu-nbd and nbdkit as sources and targets. What is on them is read
//! with qemu-img and cmp, never with Carreto alone.

use super::carreto::{Carreto, text};
use super::images::{self, Image};
use super::report::Tally;
use super::{Lab, disk, process};
use crate::Result;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(20);
const KILLS: usize = 4;
/// Data and holes in turn, of 4 KiB: qemu-nbd answers one question with 65,536 descriptors.
const ALTERNATING: u64 = 256 << 20;

/// nbdkit's filters before the plugin, and its further options.
const NBDKIT: &[(&str, &[&str], &[&str])] = &[
    ("plain", &[], &[]),
    ("delay", &["--filter=delay"], &["rdelay=5ms", "wdelay=5ms"]),
    (
        "blocks of 4096",
        &["--filter=blocksize-policy"],
        &["blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-error-policy=error"],
    ),
    ("simple replies", &["--no-sr"], &[]),
    ("one connection", &["--filter=multi-conn"], &["multi-conn-mode=disable"]),
    ("no zeroing", &["--filter=nozero"], &["zeromode=none"]),
    ("slow zeroing", &["--filter=nozero"], &["zeromode=notrim", "fastzeromode=slow"]),
];

/// A server; killed when dropped.
pub(super) struct Server {
    child: Child,
    pub(super) url: String,
}

impl Server {
    /// Starts `command`, which serves `url`, and waits until `there` says that it answers.
    fn start(command: &mut Command, url: String, there: impl Fn() -> bool) -> Result<Self> {
        // Servers complain of clients that hang up, as the look whether they answer does.
        let said = tempfile::tempfile()?;
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?);
        let mut server = Self { child: quiet.spawn()?, url };
        let begin = Instant::now();
        while !there() {
            if let Some(status) = server.child.try_wait()? {
                let said = process::text(said)?;
                return Err(format!("{command:?} ended with {status}: {said}").into());
            }
            if begin.elapsed() > START {
                return Err(format!("{command:?} does not answer").into());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// qemu-nbd of `file` on a TCP port.
    pub(super) fn qemu(file: &Path, format: &str, port: u16, more: &[&str]) -> Result<Self> {
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "-b", "127.0.0.1", "-p", &port.to_string()]);
        command.args(["-x", "disk", "-f", format]).args(more).arg(file);
        // Looking may take the only place of a client for a moment.
        let there = move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        Self::start(&mut command, format!("nbd://127.0.0.1:{port}/disk"), there)
    }

    /// nbdkit of `file` on a Unix socket.
    pub(super) fn nbdkit(file: &Path, before: &[&str], after: &[&str]) -> Result<Self> {
        let socket = file.with_extension("sock");
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--unix", text(&socket)?]).args(before);
        command.arg("file").arg(file).args(after);
        let url = format!("nbd+unix:///?socket={}", text(&socket)?);
        Self::start(&mut command, url, move || UnixStream::connect(&socket).is_ok())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.kill();
    }
}

pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("nbd")?;
    let carreto = lab.carreto.clone();
    let image = images::find(lab.images()?, "even/zstd.qcow2")?.clone();
    for (name, before, after) in NBDKIT {
        let result = nbdkit(&carreto, &image, &folder, before, after);
        tally.check(&format!("nbdkit, {name}"), result);
    }
    for (format, shared) in [("raw", "1"), ("raw", "4"), ("qcow2", "1"), ("qcow2", "4")] {
        let result = qemu(&carreto, &image, &folder, format, shared);
        tally.check(&format!("qemu-nbd of {format}, {shared} clients"), result);
    }
    tally.check("read-only and small exports", refused(&carreto, &image, &folder));
    tally.check("data and holes in turn", alternating(&carreto, &folder));
    tally.check("errors of the server", errors(&carreto, &image, &folder));
    tally.check("killed again and again", killed(&carreto, &image, &folder));
    tally.check("the server killed", server_killed(&carreto, &image, &folder));
    Ok(())
}

/// A file full of old data, as large as the disk.
fn old(folder: &Path, size: u64) -> Result<PathBuf> {
    let path = folder.join("export");
    disk::write(&path, size, 77)?;
    Ok(path)
}

fn migrate(carreto: &Carreto, image: &Image, url: &str, more: &[&str]) -> Result<()> {
    let more = [&["--yes"], more].concat();
    carreto.expect(0, &carreto.migration(text(&image.path)?, Path::new(url), &more)?)?;
    Ok(())
}

/// The export read by Carreto is the disk, digest and all.
fn read_back(carreto: &Carreto, image: &Image, folder: &Path, url: &str) -> Result<()> {
    let digest = ["digest", url, "-f", "raw", "--algorithm", "sha256"];
    let found = carreto.expect(0, &digest)?.stdout;
    let wanted = disk::sha256(&image.disk)?;
    if !found.starts_with(&wanted) {
        return Err(format!("{found:?}, wanted {wanted}").into());
    }
    carreto.migrate_and_compare(image, url, &folder.join("back"), &["-f", "raw"])
}

fn nbdkit(
    carreto: &Carreto,
    image: &Image,
    folder: &Path,
    before: &[&str],
    after: &[&str],
) -> Result<()> {
    let file = old(folder, image.virtual_size)?;
    let server = Server::nbdkit(&file, before, after)?;
    migrate(carreto, image, &server.url, &[])?;
    disk::compare(&file, &image.disk)?;
    read_back(carreto, image, folder, &server.url)
}

fn qemu(carreto: &Carreto, image: &Image, folder: &Path, format: &str, shared: &str) -> Result<()> {
    let file = folder.join("qemu");
    let size = image.virtual_size.to_string();
    process::succeed(
        Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(&file).arg(size),
    )?;
    let mut server = Server::qemu(&file, format, free_port()?, &["--shared", shared])?;
    migrate(carreto, image, &server.url, &[])?;
    read_back(carreto, image, folder, &server.url)?;
    server.kill()?;
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", format]).arg(&image.disk).arg(&file);
    process::succeed(&mut compare).map(drop)
}

fn alternating(carreto: &Carreto, folder: &Path) -> Result<()> {
    let path = folder.join("alternating");
    let file = File::create(&path)?;
    file.set_len(ALTERNATING)?;
    for at in (0..ALTERNATING).step_by(8192) {
        file.write_all_at(&[7; 4096], at)?;
    }
    let server = Server::qemu(&path, "raw", free_port()?, &["--read-only"])?;
    let digest = ["digest", &server.url, "-f", "raw", "--algorithm", "sha256"];
    let found = carreto.expect(0, &digest)?.stdout;
    let wanted = disk::sha256(&path)?;
    std::fs::remove_file(&path)?;
    if found.starts_with(&wanted) {
        return Ok(());
    }
    Err(format!("{found:?}, wanted {wanted}").into())
}

fn refused(carreto: &Carreto, image: &Image, folder: &Path) -> Result<()> {
    let file = old(folder, image.virtual_size)?;
    let before = disk::sha256(&file)?;
    let source = text(&image.path)?;
    for (options, yes, exit) in [(&["-r"][..], true, 11), (&[], false, 2)] {
        let server = Server::nbdkit(&file, options, &[])?;
        let flags: &[&str] = if yes { &["--yes"] } else { &[] };
        carreto.expect(exit, &carreto.migration(source, Path::new(&server.url), flags)?)?;
    }
    if disk::sha256(&file)? != before {
        return Err("the export was written".into());
    }
    let small = old(folder, image.virtual_size - 512)?;
    let server = Server::nbdkit(&small, &[], &[])?;
    carreto.expect(6, &carreto.migration(source, Path::new(&server.url), &["--yes"])?)?;
    Ok(())
}

/// While a file is there writes fail; without it the same command ends well.
fn errors(carreto: &Carreto, image: &Image, folder: &Path) -> Result<()> {
    let (file, trigger) = (old(folder, image.virtual_size)?, folder.join("trigger"));
    for (error, exit) in [("EIO", 14), ("ENOSPC", 11), ("EPERM", 11)] {
        File::create(&trigger)?;
        let when = format!("error-file={}", text(&trigger)?);
        let (kind, rate) = (format!("error-pwrite={error}"), "error-pwrite-rate=50%");
        let server = Server::nbdkit(&file, &["--filter=error"], &[&kind, rate, &when])?;
        let flags = ["--yes", "--restart"];
        carreto.expect(
            exit,
            &carreto.migration(text(&image.path)?, Path::new(&server.url), &flags)?,
        )?;
        std::fs::remove_file(&trigger)?;
        migrate(carreto, image, &server.url, &[])?;
        disk::compare(&file, &image.disk)?;
    }
    Ok(())
}

fn stored_rate(image: &Image) -> Result<String> {
    Ok((std::fs::metadata(&image.path)?.len() / 6).to_string())
}

fn killed(carreto: &Carreto, image: &Image, folder: &Path) -> Result<()> {
    let file = old(folder, image.virtual_size)?;
    let server = Server::nbdkit(&file, &[], &[])?;
    let rate = stored_rate(image)?;
    let mut rng = disk::Rng::new(std::process::id().into());
    let (source, target) = (text(&image.path)?, Path::new(&server.url));
    let mut kills = 0;
    for _ in 0..KILLS {
        let child = carreto.spawn(&carreto.migration(
            source,
            target,
            &["--yes", "--limit-rate", &rate],
        )?)?;
        sleep(Duration::from_millis(200 + rng.below(800)));
        match child.kill()?.status.code() {
            None => kills += 1,
            Some(0) => break,
            Some(code) => return Err(format!("a rerun ended with exit {code}").into()),
        }
    }
    if kills < 2 {
        return Err(format!("only {kills} runs were killed in time").into());
    }
    migrate(carreto, image, &server.url, &[])?;
    disk::compare(&file, &image.disk)
}

fn server_killed(carreto: &Carreto, image: &Image, folder: &Path) -> Result<()> {
    let file = old(folder, image.virtual_size)?;
    let rate = stored_rate(image)?;
    let port = free_port()?;
    let mut server = Server::qemu(&file, "raw", port, &["--shared", "4"])?;
    let target = PathBuf::from(&server.url);
    let more = ["--yes", "--limit-rate", &rate];
    let child = carreto.spawn(&carreto.migration(text(&image.path)?, &target, &more)?)?;
    sleep(Duration::from_secs(1));
    server.kill()?;
    match child.wait()?.status.code() {
        Some(5) => {}
        code => return Err(format!("the run ended with {code:?}, wanted 5").into()),
    }
    let server = Server::qemu(&file, "raw", port, &["--shared", "4"])?;
    migrate(carreto, image, &server.url, &[])?;
    disk::compare(&file, &image.disk)
}
