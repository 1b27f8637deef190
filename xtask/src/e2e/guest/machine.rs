//! A guest that runs in QEMU: started, spoken to, powered off or cut off.

use super::shell::{Answer, Shell};
use crate::Result;
use crate::e2e::carreto::text;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A guest under emulation, on a machine with other work, takes long.
const BOOT_LIMIT: Duration = Duration::from_mins(10);
const OFF_LIMIT: Duration = Duration::from_mins(3);
/// A command that needs no more than this says no limit of its own.
pub(crate) const SHORT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// The machine as its guests know it.
pub(super) const HOST: &str = "10.0.2.2";

/// `tcg` or `kvm`: how guests are run.
const ACCELERATOR: &str = "CARRETO_E2E_ACCEL";

/// A kernel that is started past the disk's own boot loader.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) line: String,
}

/// What a guest is started from.
pub(crate) struct Machine<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    /// Raw disks, the one that it boots from first; the guest sees their place as their serial
    /// number, `disk0` and on.
    pub(crate) disks: &'a [PathBuf],
    /// A disk that keeps nothing of what is written to it, after the others.
    pub(crate) scratch: Option<&'a Path>,
    /// Instead of the boot loader of the first disk.
    pub(crate) kernel: Option<&'a Kernel>,
    /// Where the first disk fails to be read the first time, in bytes.
    pub(crate) bad: Option<u64>,
    /// Where its logs go: `console.log`, `acks.log` and `qemu.log`.
    pub(crate) folder: &'a Path,
}

/// A guest that runs. It is killed when it is dropped.
pub(crate) struct Guest {
    name: String,
    child: Child,
    shell: Shell,
    folder: PathBuf,
    sockets: TempDir,
    /// From the start of the machine to the first answer.
    pub(crate) boot: Duration,
}

impl<'a> Machine<'a> {
    /// One that boots from its first disk.
    pub(crate) const fn new(name: &'a str, disks: &'a [PathBuf], folder: &'a Path) -> Self {
        Self { name, disks, scratch: None, kernel: None, bad: None, folder }
    }

    /// Starts it and waits until its shell answers.
    pub(crate) fn start(&self) -> Result<Guest> {
        std::fs::create_dir_all(self.folder)?;
        // The path of a socket has to be short.
        let sockets = tempfile::Builder::new().prefix("carreto-guest-").tempdir()?;
        let started = Instant::now();
        let log = File::create(self.folder.join("qemu.log"))?;
        let mut command = self.command(sockets.path())?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let shell = connect(&sockets.path().join("shell"), &mut child).and_then(Shell::new);
        let shell = shell.inspect_err(|_| end(&mut child)).map_err(|error| {
            let log = std::fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
            format!("{} does not start: {error}: {}", self.name, log.trim())
        })?;
        let (name, folder) = (self.name.to_owned(), self.folder.to_owned());
        let mut guest = Guest { name, child, shell, folder, sockets, boot: Duration::ZERO };
        guest.run("true", BOOT_LIMIT)?;
        guest.boot = started.elapsed();
        Ok(guest)
    }

    fn command(&self, sockets: &Path) -> Result<Command> {
        // It dies with the thread that started it, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        command.args(["qemu-system-x86_64", "-name", self.name, "-machine", "pc", "-cpu", "max"]);
        command.args(["-smp", "2", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        command.args(["-accel", &accelerator()]);
        // No boot over the network, so no firmware for it.
        command.args(["-netdev", "user,id=net0"]);
        command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        let (folder, sockets) = (text(self.folder)?, text(sockets)?);
        command.args(["-serial", &format!("file:{folder}/console.log")]);
        command.args(["-monitor", &format!("unix:{sockets}/monitor,server=on,wait=off")]);
        let shell = format!("socket,id=shell,path={sockets}/shell,server=on,wait=off");
        command.args(["-chardev", &shell]);
        command.args(["-device", "virtserialport,chardev=shell,name=carreto.shell"]);
        command.args(["-chardev", &format!("file,id=acks,path={folder}/acks.log")]);
        command.args(["-device", "virtserialport,chardev=acks,name=carreto.acks"]);
        for (index, disk) in self.disks.iter().enumerate() {
            let bad = self.bad.filter(|_| index == 0);
            attach(&mut command, &format!("disk{index}"), &kept(disk, bad)?);
        }
        if let Some(disk) = self.scratch {
            attach(&mut command, "scratch", &format!("snapshot=on,file={}", quoted(disk)?));
        }
        if let Some(kernel) = self.kernel {
            command.args(["-kernel", text(&kernel.image)?, "-initrd", text(&kernel.initrd)?]);
            command.args(["-append", &kernel.line]);
        }
        Ok(command)
    }
}

/// The options of a disk that keeps what is written to it.
fn kept(disk: &Path, bad: Option<u64>) -> Result<String> {
    let file = quoted(disk)?;
    let Some(bad) = bad else { return Ok(format!("cache=writeback,file={file}")) };
    let sector = bad / 512;
    let fails = [
        "event=none".to_owned(),
        "iotype=read".to_owned(),
        "errno=5".to_owned(),
        format!("sector={sector}"),
        "once=on".to_owned(),
    ];
    let fails = fails.map(|option| format!("file.inject-error.0.{option}")).join(",");
    let image = format!("file.driver=blkdebug,file.image.driver=file,file.image.filename={file}");
    Ok(format!("cache=writeback,{image},{fails}"))
}

fn quoted(path: &Path) -> Result<String> {
    Ok(text(path)?.replace(',', ",,"))
}

fn attach(command: &mut Command, serial: &str, options: &str) {
    let drive = format!("if=none,id={serial},format=raw,discard=unmap,{options}");
    let device = format!("virtio-blk-pci,drive={serial},serial={serial}");
    command.args(["-drive", &drive, "-device", &device]);
}

/// Emulation unless the user says otherwise: inside a virtual machine there may be a KVM that
/// starts no guest, and nothing tells before it hangs.
fn accelerator() -> String {
    let named = std::env::var(ACCELERATOR).ok().filter(|text| !text.is_empty());
    named.unwrap_or_else(|| "tcg".to_owned())
}

/// QEMU makes its sockets early, but not at once.
fn connect(socket: &Path, child: &mut Child) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > SHORT => return Err(error.into()),
            Err(_) => sleep(POLL),
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("QEMU ended with {status}").into());
        }
    }
}

fn end(child: &mut Child) {
    // Nothing is left to do about a process that does not die.
    let _ = child.kill();
    let _ = child.wait();
}

impl Guest {
    /// Runs `command` in its bash as root, for `limit` at most.
    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        let (child, name) = (&mut self.child, &self.name);
        let answer = self.shell.run(command, limit, || match child.try_wait()? {
            Some(status) => Err(format!("QEMU ended with {status}").into()),
            None => Ok(()),
        });
        answer.map_err(|error| {
            let read = |log| std::fs::read(self.folder.join(log)).unwrap_or_default();
            let (qemu, console) = (tail(&read("qemu.log")), tail(&read("console.log")));
            format!("{name}: {error}; {qemu}; its console ends with: {console}").into()
        })
    }

    /// Runs `command`, which must succeed, and returns what it printed.
    pub(crate) fn succeed(&mut self, command: &str, limit: Duration) -> Result<String> {
        let Answer { exit, output } = self.run(command, limit)?;
        if exit == 0 {
            return Ok(output);
        }
        let (name, said) = (&self.name, tail(output.as_bytes()));
        Err(format!("{name}: {command:?} ended with {exit}: {said}").into())
    }

    /// Copies `file` into the guest as the program `path`.
    pub(crate) fn put(&mut self, file: &Path, path: &str) -> Result<()> {
        let wanted = crate::e2e::disk::sha256(file)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let mut file = File::open(file)?;
        let sender = spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            std::io::copy(&mut file, &mut stream)
        });
        let fetch =
            format!("cat </dev/tcp/{HOST}/{port} >{path} && chmod 755 {path} && sha256sum {path}");
        let found = self.succeed(&fetch, Duration::from_mins(5));
        // Whatever went wrong, the sender gets a connection and ends.
        drop(std::net::TcpStream::connect(("127.0.0.1", port)));
        let sent = sender.join().map_err(|_| "the sender of a file died")?;
        if found?.starts_with(&wanted) {
            return Ok(());
        }
        Err(format!("{path} arrived broken: {sent:?} bytes sent").into())
    }

    /// What was acknowledged to the outside, as lines.
    pub(crate) fn acknowledged(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("acks.log"))?)
    }

    /// What it printed on its console.
    pub(crate) fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// Plugs its network cable in, or pulls it out.
    pub(crate) fn link(&self, is_up: bool) -> Result<()> {
        let state = if is_up { "on" } else { "off" };
        let mut monitor = self.monitor(&format!("set_link net0 {state}"))?;
        // QEMU prompts again when it is done.
        let mut said = Vec::new();
        monitor.set_read_timeout(Some(SHORT))?;
        while said.windows(7).filter(|text| *text == b"(qemu) ").count() < 2 {
            let mut chunk = [0; 512];
            match monitor.read(&mut chunk)? {
                0 => return Err("QEMU closed its monitor".into()),
                count => said.extend_from_slice(&chunk[..count]),
            }
        }
        Ok(())
    }

    /// Presses the button, and waits until the machine is off.
    pub(crate) fn power_off(mut self) -> Result<()> {
        let _monitor = self.monitor("system_powerdown")?;
        self.wait()
    }

    /// Takes the machine away from a guest that has nothing left to write.
    pub(crate) fn remove(mut self) -> Result<()> {
        let _monitor = self.monitor("quit")?;
        self.wait()
    }

    /// Gives a command to QEMU, such as `stop` or `cont`. What is returned stays open until the command has worked.
    fn monitor(&self, command: &str) -> Result<UnixStream> {
        let mut monitor = UnixStream::connect(self.sockets.path().join("monitor"))?;
        monitor.write_all(format!("{command}\n").as_bytes())?;
        Ok(monitor)
    }

    /// Waits until it has switched itself off, and returns what it had acknowledged.
    pub(crate) fn ended(mut self) -> Result<String> {
        self.wait()?;
        self.acknowledged()
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("QEMU ended with {status}").into()),
                None if start.elapsed() > OFF_LIMIT => {
                    return Err(format!("{} does not power off", self.name).into());
                }
                None => sleep(POLL),
            }
        }
    }

    /// Ends it between two instructions, and returns what it had acknowledged.
    pub(crate) fn power_cut(mut self) -> Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        self.acknowledged()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The last lines of what a program or a console said.
fn tail(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let skip = said.trim_end().chars().count().saturating_sub(1500);
    said.trim_end().chars().skip(skip).filter(|c| *c == '\n' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_short_and_plain() {
        assert_eq!(tail(b"one\r\ntwo\x1b[0m\n"), "one\ntwo[0m");
        let long = "x".repeat(5000) + "end";
        assert_eq!(tail(long.as_bytes()).len(), 1500);
        assert!(tail(long.as_bytes()).ends_with("end"));
    }

    #[test]
    fn disks_carry_their_place_as_serial_number() {
        let disks = [PathBuf::from("/a,b/one"), PathBuf::from("/two")];
        let folder = Path::new("/folder");
        let machine = Machine { bad: Some(1 << 20), ..Machine::new("plain", &disks, folder) };
        let command = machine.command(folder).expect("a command");
        let line: Vec<_> = command.get_args().filter_map(|text| text.to_str()).collect();
        let has = |wanted: &str| line.iter().any(|text| text.ends_with(wanted));
        assert!(has("file=/two") && !has("file=/a,,b/one"));
        let bad = line.iter().find(|text| text.contains("filename=/a,,b/one,")).expect("the first");
        assert!(bad.contains(".driver=blkdebug") && bad.contains(".sector=2048,"), "{bad}");
        assert!(has("drive=disk0,serial=disk0") && has("drive=disk1,serial=disk1"));
        assert!(!has("snapshot=on,file=/two") && !line.contains(&"-kernel"));
    }

    #[test]
    fn a_guest_of_which_qemu_wants_nothing_says_why() {
        let mut child = Command::new("false").spawn().expect("it runs");
        assert!(connect(Path::new("/no/such/socket"), &mut child).is_err());
        let _ = child.wait();
    }
}
