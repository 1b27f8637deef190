//! A source, a network, a receiver and its targets.

use crate::machine::FakeMachine;
use crate::proxy::Proxy;
use crate::target::{FakeTargets, Platter};
use carreto_error::Result;
use carreto_live::agent::{Agent, AgentConfig, AgentObserver, Order, Outcome, ask};
use carreto_live::certificate::Certificate;
use carreto_live::receiver::{Receiver, ReceiverConfig, ReceiverEvent, ReceiverObserver};
use carreto_live::state::{Report, State};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What no scenario takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
pub(crate) const MIB: usize = 1 << 20;

/// Hears everything.
#[derive(Debug, Default)]
pub(crate) struct Ears {
    pub(crate) told: Mutex<Vec<String>>,
}

impl Ears {
    fn hear(&self, text: String) {
        self.told.lock().unwrap().push(text);
    }

    pub(crate) fn heard(&self, text: &str) -> bool {
        self.count(text) > 0
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|told| told.contains(text)).count()
    }
}

impl AgentObserver for Ears {
    fn changed(&self, report: &Report) {
        let why = report.error.as_ref().map(|error| format!("{}: {}", error.kind, error.detail));
        self.hear(format!("agent {:?} {}", report.state, why.unwrap_or_default()));
    }

    fn note(&self, text: &str) {
        self.hear(format!("note {text}"));
    }
}

impl ReceiverObserver for Ears {
    fn event(&self, event: &ReceiverEvent<'_>) {
        self.hear(format!("receiver {event:?}"));
    }
}

struct Serving {
    receiver: Arc<Receiver>,
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

/// Everything.
pub(crate) struct Scene {
    pub(crate) machine: Arc<FakeMachine>,
    pub(crate) targets: Arc<FakeTargets>,
    pub(crate) proxy: Proxy,
    pub(crate) folder: TempDir,
    pub(crate) ears: Arc<Ears>,
    /// Added to the agent's configuration.
    pub(crate) settings: String,
    /// Added to the receiver's configuration.
    pub(crate) neighbours: String,
    pub(crate) token: String,
    serving: Option<Serving>,
}

/// A running agent.
pub(crate) struct Running {
    task: JoinHandle<Result<Outcome>>,
    stop: CancellationToken,
    kill: CancellationToken,
    ears: Arc<Ears>,
}

impl Running {
    pub(crate) async fn end(self) -> Result<Outcome> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        assert!(ended.is_ok(), "it does not end: {:#?}", self.ears.told.lock().unwrap());
        ended.unwrap().unwrap()
    }

    pub(crate) async fn committed(self) -> Certificate {
        match self.end().await {
            Ok(Outcome::Committed(path)) => {
                Certificate::from_json(&std::fs::read(path).unwrap()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Ends as a process that is told to; the next one goes on.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        assert_eq!(self.end().await.unwrap(), Outcome::Stopped);
    }

    /// Ends as by SIGKILL, with nothing said.
    pub(crate) async fn kill(self) {
        self.kill.cancel();
        let _ = self.end().await;
    }
}

impl Scene {
    /// A source with `disks`; targets that are `spare` bytes larger and full of something else.
    pub(crate) async fn new(disks: Vec<(&str, Vec<u8>)>, spare: usize) -> Self {
        let targets = Arc::new(FakeTargets::default());
        for (name, bytes) in &disks {
            let platter = Platter::new(noise(77, bytes.len() + spare));
            targets.platters.lock().unwrap().insert(format!("to-{name}"), platter);
        }
        let mut scene = Self {
            machine: FakeMachine::new(disks),
            targets,
            proxy: Proxy::start().await,
            folder: tempfile::tempdir().unwrap(),
            ears: Arc::default(),
            settings: String::new(),
            neighbours: String::new(),
            token: String::new(),
            serving: None,
        };
        scene.serve().await;
        scene.token = scene.receiver().invite(true).unwrap()[0].token.to_string();
        scene
    }

    pub(crate) async fn small() -> Self {
        Self::new(vec![("vda", mixed(1, 3 * MIB + 512)), ("vdb", mixed(2, 2 * MIB + 100))], 0).await
    }

    pub(crate) fn receiver(&self) -> &Arc<Receiver> {
        &self.serving.as_ref().unwrap().receiver
    }

    /// Starts the receiver.
    pub(crate) async fn serve(&mut self) {
        let state = self.folder.path().join("receiver");
        let mut text = format!(
            "listen = '127.0.0.1:0'\nadvertise = ['{}']\nstate = '{}'\nstreams = 3\n\
             [[server]]\nname = 'web1'\n",
            self.proxy.address,
            state.display()
        );
        for disk in &self.machine.disks {
            let name = disk.name.as_str();
            let lines = ["[[server.disk]]\nsource = '", name, "'\ntarget = 'to-", name, "'\n"];
            text.extend(lines);
        }
        text.push_str(&self.neighbours);
        let config = ReceiverConfig::parse(&text).unwrap();
        let (targets, ears) = (self.targets.clone(), self.ears.clone());
        let receiver = Arc::new(Receiver::open(config, targets, ears).unwrap());
        let listener = receiver.bind().await.unwrap();
        self.proxy.lead_to(listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let (serving, ended) = (Arc::clone(&receiver), stop.clone());
        let task = tokio::spawn(async move { serving.serve(listener, ended).await });
        self.serving = Some(Serving { receiver, stop, task });
    }

    /// Ends the receiver and waits for it.
    pub(crate) async fn shut(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.stop.cancel();
        tokio::time::timeout(PATIENCE, serving.task).await.expect("an end").unwrap().unwrap();
        assert_eq!(Arc::strong_count(&serving.receiver), 1);
    }

    pub(crate) fn config(&self) -> AgentConfig {
        let folder = self.folder.path();
        AgentConfig::parse(&format!(
            "token = '{}'\nstate = '{}'\nrun = '{}'\nthreads = 2\n{}",
            self.token,
            folder.join("agent").display(),
            folder.join("run").display(),
            self.settings
        ))
        .unwrap()
    }

    pub(crate) fn open_agent(&self) -> Result<Agent> {
        std::fs::create_dir_all(self.folder.path().join("agent")).unwrap();
        Agent::open(self.config(), self.machine.clone(), self.ears.clone())
    }

    pub(crate) fn start(&self) -> Running {
        let agent = self.open_agent().unwrap();
        // One that was killed still answers here, where a process would not.
        let _ = std::fs::remove_file(self.socket());
        let stop = CancellationToken::new();
        let (kill, ended, stopped) = (CancellationToken::new(), stop.clone(), stop.clone());
        let killed = kill.clone();
        let here = tokio::runtime::Handle::current();
        // The engine stays on the thread that drives it.
        let task = tokio::task::spawn_blocking(move || {
            let run = killed.run_until_cancelled(agent.run(stopped));
            here.block_on(run).unwrap_or(Ok(Outcome::Stopped))
        });
        Running { task, stop: ended, kill, ears: self.ears.clone() }
    }

    pub(crate) fn run_folder(&self) -> PathBuf {
        self.folder.path().join("run/web1")
    }

    pub(crate) async fn order(&self, order: Order) -> Report {
        ask(&self.run_folder(), order).await.unwrap()
    }

    pub(crate) async fn cut_over(&self, strict: bool) {
        self.order(Order::Cutover { strict }).await;
    }

    /// Waits until the agent's report is as wished.
    pub(crate) async fn until(&self, what: &str, wish: impl Fn(&Report) -> bool) -> Report {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let running = self.socket().exists();
            let report =
                if running { ask(&self.run_folder(), Order::Status).await.ok() } else { None };
            if let Some(report) = report.as_ref().filter(|report| wish(report)) {
                return report.clone();
            }
            let told = || self.ears.told.lock().unwrap().join("\n");
            assert!(tokio::time::Instant::now() < until, "{what}: {report:?}\n{}", told());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the target follows.
    pub(crate) async fn following(&self) -> Report {
        let follows = |state| matches!(state, State::Continuous | State::Ready);
        self.until("following", |report| follows(report.state)).await
    }

    pub(crate) async fn until_told(&self, text: &str) {
        self.until_so(text, |ears| ears.heard(text)).await;
    }

    pub(crate) async fn until_so(&self, text: &str, is_so: impl Fn(&Ears) -> bool) {
        let told = async {
            while !is_so(&self.ears) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let heard = tokio::time::timeout(PATIENCE, told).await;
        assert!(heard.is_ok(), "{text}: {:#?}", self.ears.told.lock().unwrap());
    }

    fn socket(&self) -> PathBuf {
        self.run_folder().join("control.sock")
    }

    pub(crate) fn platter(&self, disk: usize) -> Arc<Platter> {
        self.targets.platter(&format!("to-{}", self.machine.disks[disk].name))
    }

    /// The targets are what the source was when it was frozen, and the certificate says so.
    pub(crate) fn prove(&self, certificate: &Certificate) {
        certificate.verify(&[self.receiver().fingerprint()]).unwrap();
        let frozen = self.machine.frozen.lock().unwrap();
        for (index, frozen) in frozen.iter().enumerate() {
            let found = self.platter(index).content();
            let differs = found.iter().zip(frozen).position(|(one, other)| one != other);
            assert_eq!(differs, None, "disk {index}: {:?}", self.ears.told.lock().unwrap());
            let stated = &certificate.statement().disks[index];
            assert_eq!(stated.root.as_bytes(), blake3::hash(frozen).as_bytes());
            assert_eq!(stated.size, frozen.len() as u64);
        }
    }

    pub(crate) async fn finish(&self, agent: Running) -> Certificate {
        let certificate = agent.committed().await;
        self.prove(&certificate);
        certificate
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A third noise, a third text, a third zeros, in pieces that are no granules.
pub(crate) fn mixed(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = noise(seed, len);
    for (index, piece) in bytes.chunks_mut(100_000).enumerate() {
        match index % 3 {
            0 => {}
            1 => piece.iter_mut().zip((b'a'..b'x').cycle()).for_each(|(byte, new)| *byte = new),
            _ => piece.fill(0),
        }
    }
    bytes
}
