//! A whole migration whose tracker does not see one request in a hundred: the audit says so, and
//! the target is the source all the same.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "loopback/target.rs"]
#[allow(dead_code, reason = "a part is used here")]
mod target;
mod track_support;

use carreto_block::ByteRange;
use carreto_error::Result;
use carreto_live::agent::{
    Agent, AgentConfig, AgentObserver, Freezing, LinuxMachine, Machine, MachineDisk, Order,
    Outcome, ask,
};
use carreto_live::certificate::Certificate;
use carreto_live::host::{WatchdogCommand, watchdog_main};
use carreto_live::receiver::{Receiver, ReceiverConfig, ReceiverEvent, ReceiverObserver};
use carreto_live::state::Report;
use carreto_live::track::{Attached, BpfOptions, TrackedDisk, TrackerChoice, attach_with};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;
use target::{FakeTargets, Platter};
use tokio_util::sync::CancellationToken;
use track_support::{Disk, Mounted, allowed, folder, load, say};

const SIZE: u64 = 256 << 20;
const SERVER: &str = "lossy";

/// This system, with a tracker that leaves requests out.
#[derive(Debug)]
struct Lossy {
    machine: LinuxMachine,
    pins: PathBuf,
}

impl Machine for Lossy {
    fn disks(&self, wished: &[String]) -> Result<Vec<MachineDisk>> {
        self.machine.disks(wished)
    }

    fn attach(&self, disk: &TrackedDisk, choice: TrackerChoice, _pins: &Path) -> Result<Attached> {
        let options = BpfOptions { drop_one_in: 100, ..BpfOptions::default() };
        attach_with(disk, choice, &self.pins, options)
    }

    fn prepare_freeze(&self, disks: &[MachineDisk], lease: Duration) -> Result<Box<dyn Freezing>> {
        self.machine.prepare_freeze(disks, lease)
    }

    fn would_freeze(&self, disks: &[MachineDisk], folder: &Path) -> Result<bool> {
        self.machine.would_freeze(disks, folder)
    }

    fn volatile(&self, disks: &[MachineDisk]) -> Vec<(String, ByteRange)> {
        self.machine.volatile(disks)
    }
}

/// Hears nothing.
#[derive(Debug)]
struct Deaf;

impl AgentObserver for Deaf {
    fn changed(&self, _report: &Report) {}
    fn note(&self, _text: &str) {}
}

impl ReceiverObserver for Deaf {
    fn event(&self, _event: &ReceiverEvent<'_>) {}
}

/// Not a test: this test binary as the watchdog.
#[test]
fn watchdog() {
    if std::env::var_os("CARRETO_TEST_WATCHDOG").is_some() {
        watchdog_main(std::io::stdin()).unwrap();
    }
}

fn machine(pins: &Path) -> Lossy {
    let binary = std::env::current_exe().unwrap().into_os_string();
    let mut arguments = vec!["CARRETO_TEST_WATCHDOG=1".into(), binary];
    arguments.extend(["--exact", "watchdog", "--nocapture"].map(Into::into));
    let watchdog = WatchdogCommand { program: "/usr/bin/env".into(), arguments };
    Lossy { machine: LinuxMachine { watchdog }, pins: pins.join("carreto/test") }
}

/// A receiver with one target, and the token for its one server.
async fn receive(place: &Path, name: &str, platter: &Arc<Platter>) -> (String, CancellationToken) {
    let text = format!(
        "listen = '127.0.0.1:0'\nadvertise = ['127.0.0.1:1']\nstate = '{}'\n[[server]]\n\
         name = '{SERVER}'\n[[server.disk]]\nsource = '{name}'\ntarget = 'platter'\n",
        place.join("receiver").display()
    );
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap().to_string();
    drop(probe);
    let text = text.replace("127.0.0.1:0", &address).replace("127.0.0.1:1", &address);
    let targets = Arc::new(FakeTargets::default());
    targets.platters.lock().unwrap().insert("platter".to_owned(), Arc::clone(platter));
    let config = ReceiverConfig::parse(&text).unwrap();
    let receiver = Arc::new(Receiver::open(config, targets, Arc::new(Deaf)).unwrap());
    let token = receiver.invite(false).unwrap().remove(0).token.to_string();
    let listener = receiver.bind().await.unwrap();
    let stop = CancellationToken::new();
    let ended = stop.clone();
    tokio::spawn(async move { receiver.serve(listener, ended).await.unwrap() });
    (token, stop)
}

fn agent(place: &Path, disk: &Disk, token: &str, machine: Lossy) -> (Agent, PathBuf) {
    let (state, run) = (place.join("agent"), place.join("run"));
    std::fs::create_dir_all(&state).unwrap();
    let text = format!(
        "token = '{token}'\nstate = '{}'\nrun = '{}'\ndisks = ['{}']\ntracker = 'bpf'\n",
        state.display(),
        run.display(),
        disk.device
    );
    let config = AgentConfig::parse(&text).unwrap();
    (Agent::open(config, Arc::new(machine), Arc::new(Deaf)).unwrap(), run.join(SERVER))
}

/// Waits for a report that is as wished.
async fn until(folder: &Path, what: &str, wish: impl Fn(&Report) -> bool) -> Report {
    let mut last = None;
    for _ in 0..600 {
        last = ask(folder, Order::Status).await.ok();
        if let Some(report) = last.as_ref().filter(|report| wish(report)) {
            return report.clone();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    unreachable!("{what} never came: {last:?}")
}

/// Random writes that end with it.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // Killed, it would leave its jobs behind.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A frozen file system that thaws with it, whatever happens.
struct Thaw<'a>(&'a Path);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0).output();
    }
}

#[test]
fn a_tracker_that_loses_one_percent_costs_time_and_no_byte() {
    let test = "a_tracker_that_loses_one_percent_costs_time_and_no_byte";
    let Some(_alone) = allowed(test) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(migrate_with_losses());
}

async fn migrate_with_losses() {
    let place = folder();
    let pins = Mounted::new(&["-t", "bpf", "bpf"], &place.path().join("pins"));
    let disk = Disk::sparse(place.path(), SIZE);
    load::make("ext4", &disk.device);
    let mounted = Mounted::new(&[&disk.device], &place.path().join("mounted"));
    let platter = Platter::new(vec![0; usize::try_from(SIZE).unwrap()]);
    let name = disk.tracked().name;
    let (token, stop) = receive(place.path(), &name, &platter).await;
    let (agent, folder) = agent(place.path(), &disk, &token, machine(&pins.0));
    let load = Load(load::fio(&mounted.0, "libaio", 600));
    let thaw = Thaw(&mounted.0);
    let here = tokio::runtime::Handle::current();
    let running = tokio::task::spawn_blocking(move || {
        here.block_on(agent.run(CancellationToken::new())).unwrap()
    });
    let flagged =
        until(&folder, "a suspect epoch", |report| report.totals.suspect_epochs > 0).await;
    ask(&folder, Order::Cutover { strict: false }).await.unwrap();
    let Outcome::Committed(certificate) = running.await.unwrap() else {
        unreachable!("{flagged:?}")
    };
    // It is left frozen, so this is what it was then.
    let frozen = std::fs::read(&disk.file).unwrap();
    drop(thaw);
    drop(load);
    stop.cancel();
    let found = platter.content();
    let differing = frozen.chunks(1 << 16).zip(found.chunks(1 << 16)).filter(|(a, b)| a != b);
    let certificate = Certificate::from_json(&std::fs::read(certificate).unwrap()).unwrap();
    let stated = &certificate.statement().disks[0];
    say(&format!("{} of {} blocks differ; {flagged:?}", differing.count(), SIZE >> 16));
    assert!(found == frozen);
    assert_eq!(stated.root.as_bytes(), blake3::hash(&frozen).as_bytes());
}
