//! What breaks on the way: each migration ends with the right disk all the same.

use super::super::carreto::Carreto;
use super::super::nbd;
use super::super::proxy::Proxy;
use super::super::report::Tally;
use super::disks::{Machine, Source};
use super::ends::{self, Agent, Receiver, Route, number};
use super::loads;
use super::program::{Program, until};
use super::proof::{self, Oracle};
use crate::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SIZE: u64 = 192 << 20;
/// So slow that a failure comes in the middle.
const LIMIT: &str = "24M";
/// Bytes sent when it breaks.
const MIDDLE: f64 = (64 << 20) as f64;
/// Bytes that may be sent twice for a failure in the middle: what was under way, and what the load
/// changed.
const AGAIN: f64 = (48 << 20) as f64;
const PATIENCE: Duration = Duration::from_mins(1);
const LEASE: u64 = 10;

type Fault = fn(&mut Scene<'_>) -> Result<String>;

/// When something breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// In the middle of the first pass.
    Middle,
    /// The same, on the way to an NBD export.
    MiddleOfExport,
    /// In the cutover.
    Frozen,
}

const FAULTS: &[(&str, When, Fault)] = &[
    ("agent killed twice", When::Middle, agent_killed),
    ("receiver killed", When::Middle, receiver_killed),
    ("link cut", When::Middle, link_cut),
    ("server of the export killed", When::MiddleOfExport, export_killed),
    ("agent killed while frozen", When::Frozen, agent_killed_frozen),
    ("receiver killed while frozen", When::Frozen, receiver_killed_frozen),
    ("receiver silent while frozen", When::Frozen, receiver_silent),
    ("cutover given up", When::Frozen, given_up),
];

pub(super) fn run_all(carreto: &Carreto, oracle: &Oracle, folder: &Path, tally: &mut Tally) {
    for (number, (name, when, fault)) in FAULTS.iter().enumerate() {
        let folder = folder.join(format!("fault-{number}"));
        super::check(tally, name, || {
            let mut scene = Scene::new(carreto, oracle, &folder, *when)?;
            Ok(vec![fault(&mut scene)?])
        });
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// A migration in which something will break. Fields go in their order.
struct Scene<'a> {
    carreto: &'a Carreto,
    oracle: &'a Oracle,
    folder: PathBuf,
    target: PathBuf,
    agent: Agent,
    proxy: Proxy,
    receiver: Receiver,
    export: Option<Export>,
    source: Source,
    _pins: Machine,
}

/// The target, served over NBD.
struct Export {
    file: PathBuf,
    port: u16,
    server: nbd::Server,
}

impl Export {
    fn start(file: &Path, port: u16) -> Result<Self> {
        let server = nbd::Server::qemu(file, "raw", port, &["--shared", "8"])?;
        Ok(Self { file: file.to_owned(), port, server })
    }

    /// SIGKILL; what it had not flushed is as it may be.
    fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    fn come_back(&mut self) -> Result<()> {
        *self = Self::start(&self.file, self.port)?;
        Ok(())
    }
}

impl<'a> Scene<'a> {
    fn new(carreto: &'a Carreto, oracle: &'a Oracle, folder: &Path, when: When) -> Result<Self> {
        let pins = Machine::prepare()?;
        let mut source = Source::make(folder, "ext4", SIZE)?;
        loads::random_writes(&mut source, 10)?;
        let (address, target) = (ends::free_address()?, folder.join("target.img"));
        let proxy = Proxy::start(&address)?;
        let export = if when == When::MiddleOfExport {
            std::fs::File::create(&target)?.set_len(SIZE)?;
            Some(Export::start(&target, nbd::free_port()?)?)
        } else {
            None
        };
        let named = export.as_ref().map_or(&*target, |export| Path::new(&export.server.url));
        let routes = [Route { server: &ends::server(1), disk: source.disk.name()?, target: named }];
        let listen = (&*address, &[proxy.address()][..]);
        let receiver = Receiver::start(carreto, &folder.join("receiver"), listen, &routes)?;
        let bandwidth = if when == When::Frozen { "off" } else { LIMIT };
        // Long enough for somebody to see that the cutover has begun.
        let more = format!(
            "bandwidth = '{bandwidth}'\n[cutover]\nlease_seconds = {LEASE}\n[hooks]\n\
             before = ['touch {0}/before; sleep 1']\nafter = ['touch {0}/after']",
            folder.display()
        );
        let home = folder.join("agent");
        let token = receiver.token(&ends::server(1))?;
        let agent = Agent::new(carreto, (&home, folder), token, &source.disk.device, &more)?;
        let folder = folder.to_owned();
        Ok(Self {
            carreto,
            oracle,
            folder,
            target,
            agent,
            proxy,
            receiver,
            export,
            source,
            _pins: pins,
        })
    }

    /// Waits until so much was sent that a failure comes in the middle.
    fn wait_for_middle(&self, program: &mut Program) -> Result<Value> {
        let mut status = Value::Null;
        until("the middle", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(100));
            if program.has_ended()? {
                return Err(format!("the agent has ended: {}", program.stderr()?).into());
            }
            status = self.agent.status().unwrap_or_default();
            Ok(status["totals"]["data_bytes"].as_f64().is_some_and(|sent| sent >= MIDDLE))
        })?;
        Ok(status)
    }

    /// Cuts over and proves that both disks are equal.
    fn finish(&mut self, program: Program) -> Result<Value> {
        self.agent.order(&["cutover", "--wait"])?;
        let report = ends::committed(program)?;
        let certificate = report["cutover"]["certificate"].as_str().ok_or("no certificate")?;
        let disks = (&*self.source.disk.device, &*self.target);
        proof::prove(self.carreto, self.oracle, disks, Path::new(certificate))?;
        let said = self.agent.order(&["cleanup"])?;
        self.source.works()?;
        if ends::run_folder().exists() {
            return Err(format!("files of the agent stayed behind: {said}").into());
        }
        Ok(report)
    }

    /// Starts a cutover and stops the receiver once the hook runs, so that the source stays frozen
    /// until something is done about it.
    fn hang_frozen(&mut self, program: &mut Program) -> Result<Program> {
        self.agent.wait_until_following(program)?;
        let _ = std::fs::remove_file(self.folder.join("before"));
        let cutover = self.agent.start(&["cutover", "--wait"], "cutover")?;
        until("the hook", PATIENCE, || Ok(self.folder.join("before").exists()))?;
        self.receiver.stop()?;
        until("the source is frozen", PATIENCE, || self.source.is_frozen())?;
        Ok(cutover)
    }
}

fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

fn expect_little(sent: f64) -> Result<()> {
    if sent > SIZE as f64 + AGAIN {
        return Err(format!("{} were sent for a disk of {}", mib(sent), mib(SIZE as f64)).into());
    }
    Ok(())
}

fn agent_killed(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    let first = number(&scene.wait_for_middle(&mut program)?, "totals.data_bytes")?;
    program.kill()?;
    let mut program = scene.agent.run()?;
    let status = scene.agent.wait_until_following(&mut program)?;
    let second = number(&status, "totals.data_bytes")?;
    program.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    let mut program = scene.agent.run()?;
    scene.agent.wait_until_following(&mut program)?;
    let report = scene.finish(program)?;
    let third = number(&report, "totals.data_bytes")?;
    expect_little(first + second + third)?;
    Ok(format!(
        "{} before the first death, {} after it, {} after the second one, of {}; equal",
        mib(first),
        mib(second),
        mib(third),
        mib(SIZE as f64)
    ))
}

fn receiver_killed(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    scene.wait_for_middle(&mut program)?;
    scene.receiver.kill()?;
    scene.agent.wait_for(&mut program, &["STALLED"])?;
    std::thread::sleep(Duration::from_secs(1));
    scene.receiver.come_back()?;
    scene.agent.wait_until_following(&mut program)?;
    reconnected(scene, program)
}

fn link_cut(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    scene.wait_for_middle(&mut program)?;
    scene.proxy.cut();
    scene.agent.wait_for(&mut program, &["STALLED"])?;
    std::thread::sleep(Duration::from_secs(1));
    scene.proxy.mend();
    scene.agent.wait_until_following(&mut program)?;
    reconnected(scene, program)
}

fn export_killed(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    scene.wait_for_middle(&mut program)?;
    let export = scene.export.as_mut().ok_or("the target is no export")?;
    export.kill()?;
    scene.agent.wait_for(&mut program, &["STALLED"])?;
    std::thread::sleep(Duration::from_secs(1));
    export.come_back()?;
    scene.agent.wait_until_following(&mut program)?;
    reconnected(scene, program)
}

fn reconnected(scene: &mut Scene<'_>, program: Program) -> Result<String> {
    let report = scene.finish(program)?;
    let (sent, times) =
        (number(&report, "totals.data_bytes")?, number(&report, "totals.reconnects")?);
    expect_little(sent)?;
    if times < 1.0 {
        return Err("the agent did not connect again".into());
    }
    let again = (sent - SIZE as f64).max(0.0);
    Ok(format!("connected again {times} times, {} more than the disk sent; equal", mib(again)))
}

fn agent_killed_frozen(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    let cutover = scene.hang_frozen(&mut program)?;
    let killed = Instant::now();
    program.kill()?;
    scene.source.works()?;
    let thawed = killed.elapsed();
    drop(cutover);
    scene.receiver.go_on()?;
    let mut program = scene.agent.run()?;
    scene.agent.wait_until_following(&mut program)?;
    let sent = number(&scene.finish(program)?, "totals.data_bytes")?;
    Ok(format!(
        "it worked again after {:.2} s; {} sent by the next agent; equal",
        thawed.as_secs_f64(),
        mib(sent)
    ))
}

fn receiver_killed_frozen(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    let cutover = scene.hang_frozen(&mut program)?;
    let killed = Instant::now();
    scene.receiver.kill()?;
    scene.source.works()?;
    let thawed = killed.elapsed();
    rolled_back(scene, program, cutover, thawed)
}

fn receiver_silent(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    let cutover = scene.hang_frozen(&mut program)?;
    let stopped = Instant::now();
    scene.source.works()?;
    let thawed = stopped.elapsed();
    scene.receiver.kill()?;
    rolled_back(scene, program, cutover, thawed)
}

/// The receiver is gone and the source works again: the next cutover has to do it.
fn rolled_back(
    scene: &mut Scene<'_>,
    mut program: Program,
    cutover: Program,
    thawed: Duration,
) -> Result<String> {
    let ended = cutover.wait(PATIENCE)?;
    if ended.status.success() {
        return Err("agent cutover --wait says that a cutover without a receiver went well".into());
    }
    scene.receiver.come_back()?;
    scene.agent.wait_until_following(&mut program)?;
    let report = scene.finish(program)?;
    let sent = number(&report, "totals.data_bytes")?;
    let more = (sent - SIZE as f64).max(0.0);
    let seconds = thawed.as_secs_f64();
    Ok(format!(
        "it worked again after {seconds:.2} s; {} more than the disk sent; equal",
        mib(more)
    ))
}

fn given_up(scene: &mut Scene<'_>) -> Result<String> {
    let mut program = scene.agent.run()?;
    let cutover = scene.hang_frozen(&mut program)?;
    let ordered = Instant::now();
    scene.receiver.go_on()?;
    let _ = scene.agent.order(&["abort"]);
    scene.source.works()?;
    let thawed = ordered.elapsed();
    // The order may have come too late, and then it is committed.
    let ended = cutover.wait(PATIENCE)?;
    if ended.status.success() {
        return Err("the cutover was over before it could be given up".into());
    }
    if !scene.folder.join("after").exists() {
        return Err("the hook after the thaw did not run".into());
    }
    scene.agent.wait_until_following(&mut program)?;
    scene.finish(program)?;
    Ok(format!(
        "it worked again after {:.2} s; the next cutover went well; equal",
        thawed.as_secs_f64()
    ))
}
