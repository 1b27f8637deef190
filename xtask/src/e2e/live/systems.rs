//! Each kind of file system under every kind of change, migrated and cut over.

use super::super::carreto::{Carreto, text};
use super::super::nbd;
use super::super::report::Tally;
use super::disks::{LoopDisk, Machine, Mounted, Source, check_file_system, run};
use super::ends::{self, Agent, Receiver, Route, number};
use super::loads::{self, Writer};
use super::program::Program;
use super::proof::{self, Oracle};
use super::traces::{Places, Traces};
use crate::Result;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 320 << 20;
/// How long the loads run once the target follows.
const UNDER_LOAD: Duration = Duration::from_secs(4);

/// What is special about a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    /// The target is a disk that is full of something else.
    OntoDisk,
    /// The target is an export of a server that takes one client at a time.
    OntoExport,
    /// The agent's program and files lie on the disk that is frozen.
    FromSource,
    /// The agent cuts over by itself.
    WhenReady,
    /// Hash everything while the source stands still.
    Strict,
    /// Somebody else traces every system call meanwhile.
    Traced,
}

/// One migration.
struct Case {
    name: &'static str,
    kind: &'static str,
    twists: &'static [Twist],
}

impl Case {
    fn is(&self, twist: Twist) -> bool {
        self.twists.contains(&twist)
    }
}

const CASES: &[Case] = &[
    Case { name: "ext4 onto a file", kind: "ext4", twists: &[] },
    Case {
        name: "xfs onto a disk with other content, strict",
        kind: "xfs",
        twists: &[Twist::OntoDisk, Twist::Strict],
    },
    Case {
        name: "btrfs, the agent on the disk that is frozen",
        kind: "btrfs",
        twists: &[Twist::FromSource, Twist::WhenReady],
    },
    Case { name: "ext4, a foreign tracer at work", kind: "ext4", twists: &[Twist::Traced] },
    Case { name: "ext4 onto an NBD export", kind: "ext4", twists: &[Twist::OntoExport] },
];

/// Migrates everything in `CASES`.
pub(super) fn run_all(carreto: &Carreto, oracle: &Oracle, folder: &Path, tally: &mut Tally) {
    for (number, case) in CASES.iter().enumerate() {
        let scene = Scene { carreto, oracle, folder: folder.join(format!("case-{number}")), case };
        super::check(tally, case.name, || scene.migrate());
        // The next one needs the space.
        let _ = std::fs::remove_dir_all(folder.join(format!("case-{number}")));
    }
}

struct Scene<'a> {
    carreto: &'a Carreto,
    oracle: &'a Oracle,
    folder: PathBuf,
    case: &'a Case,
}

/// What a target needs to be there.
enum Held {
    Nothing,
    Disk(LoopDisk),
    Export(nbd::Server),
}

impl Held {
    /// What the receiver calls the target `found`.
    fn name<'a>(&'a self, found: &'a Path) -> &'a Path {
        if let Self::Export(server) = self { Path::new(&server.url) } else { found }
    }
}

impl Scene<'_> {
    fn migrate(&self) -> Result<Vec<String>> {
        let _pins = Machine::prepare()?;
        let _tracer =
            if self.case.is(Twist::Traced) { Some(Tracer::start(&self.folder)?) } else { None };
        let mut source = Source::make(&self.folder, self.case.kind, SIZE)?;
        let (target, held) = self.target()?;
        let home =
            if self.case.is(Twist::FromSource) { source.point() } else { self.folder.clone() }
                .join("agent");
        let program = if self.case.is(Twist::FromSource) {
            home.join("carreto")
        } else {
            self.carreto.program().to_owned()
        };
        let places = self.places(&home, &program);
        let before = Traces::find(&places)?;

        loads::everything(&mut source)?;
        let writer = Writer::start(&source)?;
        let address = ends::free_address()?;
        let named = held.name(&target);
        let routes = [Route { server: &ends::server(1), disk: source.disk.name()?, target: named }];
        let mut receiver = Receiver::start(
            self.carreto,
            &self.folder.join("receiver"),
            (&address, &[&address]),
            &routes,
        )?;
        let agent = self.agent(&home, &program, &source, &receiver)?;
        agent.order(&["check"])?;
        let (report, during) = self.cut_over(&agent, &places)?;
        if during == before {
            return Err("an agent that works leaves no trace: the search is wrong".into());
        }
        let acknowledged = writer.acknowledged()?;
        writer.hand_over(&mut source);
        if !source.is_frozen()? {
            return Err("the source is not frozen after the migration".into());
        }
        let certificate = report["cutover"]["certificate"].as_str().ok_or("no certificate")?;
        let kept = self.folder.join("certificate.json");
        std::fs::copy(certificate, &kept)?;
        let disks = (&*source.disk.device, &*target);
        let proved = proof::prove(self.carreto, self.oracle, disks, &kept)?;

        agent.order(&["cleanup"])?;
        source.works()?;
        std::fs::remove_dir_all(&home)?;
        Traces::find(&places)?.expect(&before)?;
        receiver.end()?;
        drop(source);
        let found = self.check_target(&target, held)?;
        if found < acknowledged {
            return Err(format!("{acknowledged} rows were acknowledged, {found} found").into());
        }
        Ok(vec![
            summary(&report, &proved)?,
            format!("{acknowledged} transactions acknowledged before the freeze, {found} found"),
            format!(
                "before the agent: {}; while it works: {}; after cleanup as before",
                before.counts(),
                during.counts()
            ),
        ])
    }

    /// Where the disk is to be found in the end, and how it gets there.
    fn target(&self) -> Result<(PathBuf, Held)> {
        let file = self.folder.join("target.img");
        if self.case.is(Twist::OntoDisk) {
            let disk = LoopDisk::random(&file, SIZE)?;
            return Ok((disk.device.clone(), Held::Disk(disk)));
        }
        if self.case.is(Twist::OntoExport) {
            File::create(&file)?.set_len(SIZE)?;
            let server = nbd::Server::qemu(&file, "raw", nbd::free_port()?, &["--shared", "1"])?;
            return Ok((file, Held::Export(server)));
        }
        Ok((file, Held::Nothing))
    }

    fn places(&self, home: &Path, program: &Path) -> Places {
        Places {
            folders: vec![home.to_owned(), ends::run_folder()],
            server: ends::server(1),
            lab: self.folder.clone(),
            program: program.to_owned(),
        }
    }

    fn agent(
        &self,
        home: &Path,
        program: &Path,
        source: &Source,
        receiver: &Receiver,
    ) -> Result<Agent> {
        std::fs::create_dir_all(home)?;
        if self.case.is(Twist::FromSource) {
            // As it is delivered: a program of a test would fill the disk.
            run("strip", &["-o", text(program)?, text(self.carreto.program())?])?;
        }
        let when = if self.case.is(Twist::WhenReady) { "ready" } else { "manual" };
        let hook = self.folder.join("quiesced");
        let more = format!(
            "[cutover]\nwhen = '{when}'\nmax_pause_seconds = 60\n[hooks]\nbefore = ['touch {}']",
            text(&hook)?
        );
        let carreto = self.carreto.with_program(program);
        Agent::new(
            &carreto,
            (home, &self.folder),
            receiver.token(&ends::server(1))?,
            &source.disk.device,
            &more,
        )
    }

    /// Runs the agent until it has committed; also what it leaves on the system meanwhile.
    fn cut_over(&self, agent: &Agent, places: &Places) -> Result<(Value, Traces)> {
        let mut program = agent.run()?;
        agent.wait_for(&mut program, &["INITIAL_SYNC", "CATCHING_UP", "CONTINUOUS", "READY"])?;
        let during = Traces::find(places)?;
        if !self.case.is(Twist::WhenReady) {
            agent.wait_until_following(&mut program)?;
            std::thread::sleep(UNDER_LOAD);
            let words: &[&str] = if self.case.is(Twist::Strict) {
                &["cutover", "--strict", "--wait"]
            } else {
                &["cutover", "--wait"]
            };
            agent.order(words)?;
        }
        let report = ends::committed(program)?;
        if !self.folder.join("quiesced").exists() {
            return Err("the hook before the freeze did not run".into());
        }
        Ok((report, during))
    }

    /// Mounts the target, which replays what its journal has, and reads the database.
    fn check_target(&self, target: &Path, held: Held) -> Result<u64> {
        let disk = match held {
            Held::Disk(disk) => disk,
            // The server of an export lets go of the file first.
            held => {
                drop(held);
                LoopDisk::attach(target)?
            }
        };
        let mounted = Mounted::new(&[text(&disk.device)?], &self.folder.join("target"))?;
        let found = loads::rows(&mounted.0)?;
        drop(mounted);
        check_file_system(self.case.kind, &disk.device)?;
        Ok(found)
    }
}

/// What was compared and sent, and how long the source stood still.
fn summary(report: &Value, proved: &proof::Proved) -> Result<String> {
    let (blocks, different) = (proved.compared.blocks, proved.compared.different);
    let pause = number(report, "cutover.pause_seconds")?;
    let resent = number(report, "totals.resent_granules")?;
    let rehashed = number(report, "cutover.compared_granules")?;
    let sent = number(report, "cutover.sent_granules")?;
    let missed = number(report, "cutover.missed_granules")?;
    let suspect = number(report, "totals.suspect_epochs")?;
    let epochs = number(report, "totals.epochs")?;
    let tracker = report["disks"][0]["tracker"].as_str().unwrap_or("?");
    let root = proved.root.get(..16).unwrap_or_default();
    Ok(format!(
        "{blocks} blocks compared, {different} differences, {resent} granules re-sent, \
         pause {pause:.2} s ({rehashed} granules read again, {sent} sent, {missed} missed by the \
         tracker), {tracker}, {suspect} of {epochs} epochs suspect, BLAKE3 {root}…"
    ))
}

/// Somebody else's BPF program on every system call.
struct Tracer {
    _program: Program,
    _tracefs: Option<Mounted>,
}

impl Tracer {
    fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let tracing = Path::new("/sys/kernel/tracing");
        let is_there = tracing.join("events").is_dir();
        let tracefs = if is_there {
            None
        } else {
            Some(Mounted::new(&["-t", "tracefs", "tracefs"], tracing)?)
        };
        let mut bpftrace = Command::new("bpftrace");
        let script = "BEGIN { printf(\"ready\\n\"); } tracepoint:raw_syscalls:sys_enter { @[cpu] = count(); }";
        bpftrace.args(["-B", "none", "-e", script]);
        let mut program = Program::start(&mut bpftrace, folder, "bpftrace")?;
        program.wait_for(Duration::from_mins(1), |text| text.contains("ready").then_some(()))?;
        Ok(Self { _program: program, _tracefs: tracefs })
    }
}
