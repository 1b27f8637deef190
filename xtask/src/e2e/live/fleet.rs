//! Many servers at once, and what a line carries.

use super::super::carreto::Carreto;
use super::super::report::Tally;
use super::disks::{Machine, Source, run};
use super::ends::{self, Agent, MIGRATION, Receiver, Route, number};
use super::loads;
use super::network::Network;
use super::program::{Program, until};
use super::proof::{self, Oracle};
use crate::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SIZE: u64 = 192 << 20;
/// Of the disk that is like a server's own.
const SYSTEM: u64 = 768 << 20;
/// Bytes per second of 100 Mbit/s.
const LINE: f64 = 12.5e6;
/// What incompressible content must reach of it.
const LEAST: f64 = 10.5e6;
/// The bandwidth in a configuration, and what it means.
const LIMIT: (&str, f64) = ("12M", (12 << 20) as f64);

pub(super) fn run_all(carreto: &Carreto, oracle: &Oracle, folder: &Path, tally: &mut Tally) {
    let lab = Lab { carreto, oracle, folder };
    let checks: [(&str, &dyn Fn() -> Result<String>); 4] = [
        ("three servers at once", &|| lab.three()),
        ("incompressible disk over 100 Mbit/s", &|| lab.line(true)),
        ("system disk over 100 Mbit/s", &|| lab.line(false)),
        ("bandwidth limit", &|| lab.limit()),
    ];
    for (name, check) in checks {
        super::check(tally, name, || Ok(vec![check()?]));
    }
}

struct Lab<'a> {
    carreto: &'a Carreto,
    oracle: &'a Oracle,
    folder: &'a Path,
}

/// One server of a fleet. Fields go in their order.
struct Server {
    program: Option<Program>,
    agent: Option<Agent>,
    source: Source,
    target: PathBuf,
    name: String,
    network: Network,
}

impl Server {
    fn new(folder: &Path, number: u8) -> Result<Self> {
        let folder = folder.join(format!("server-{number}"));
        let kind = if number.is_multiple_of(2) { "xfs" } else { "ext4" };
        // XFS is never smaller.
        let mut source = Source::make(&folder, kind, SIZE + (128 << 20))?;
        loads::random_writes(&mut source, 50)?;
        let target = folder.join("target.img");
        let network = Network::new(number, None)?;
        Ok(Self { program: None, agent: None, source, target, name: ends::server(number), network })
    }

    fn start(&mut self, carreto: &Carreto, token: &str) -> Result<()> {
        let wrapper = self.network.wrapper();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let (home, device) = (self.source.folder.join("agent"), &self.source.disk.device);
        let more = "[cutover]\nwhen = 'ready'\nmax_pause_seconds = 60";
        let folders = (&*home, &*self.source.folder);
        let agent = Agent::new(&carreto.run_by(&wrapper), folders, token, device, more)?;
        self.program = Some(agent.run()?);
        self.agent = Some(agent);
        Ok(())
    }

    fn finish(&mut self, carreto: &Carreto, oracle: &Oracle) -> Result<f64> {
        let report = ends::committed(self.program.take().ok_or("it was not started")?)?;
        let certificate = report["cutover"]["certificate"].as_str().ok_or("no certificate")?;
        let disks = (&*self.source.disk.device, &*self.target);
        proof::prove(carreto, oracle, disks, Path::new(certificate))?;
        self.agent.as_ref().ok_or("it was not started")?.order(&["cleanup"])?;
        number(&report, "cutover.pause_seconds")
    }
}

impl Lab<'_> {
    fn three(&self) -> Result<String> {
        let _pins = Machine::prepare()?;
        let folder = self.folder.join("three");
        let mut servers =
            (1..=3).map(|number| Server::new(&folder, number)).collect::<Result<Vec<_>>>()?;
        let port = ends::free_address()?.rsplit(':').next().unwrap_or_default().to_owned();
        let hosts: Vec<_> =
            servers.iter().map(|server| format!("{}:{port}", server.network.host)).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let routes = servers
            .iter()
            .map(|one| {
                Ok(Route { server: &one.name, disk: one.source.disk.name()?, target: &one.target })
            })
            .collect::<Result<Vec<_>>>()?;
        let listen = format!("0.0.0.0:{port}");
        let mut receiver =
            Receiver::start(self.carreto, &folder.join("receiver"), (&listen, &hosts), &routes)?;
        let begun = Instant::now();
        for server in &mut servers {
            let token = receiver.token(&server.name)?.to_owned();
            server.start(self.carreto, &token)?;
        }
        until("all servers are listed", MIGRATION, || {
            std::thread::sleep(Duration::from_millis(200));
            let fleet = receiver.fleet()?;
            let listed = fleet["servers"].as_array().is_some_and(|servers| {
                servers.len() == 3
                    && servers.iter().all(|server| server["joined"] == Value::Bool(true))
            });
            Ok(listed)
        })?;
        let mut pauses = Vec::new();
        for server in &mut servers {
            pauses.push(format!("{:.2}", server.finish(self.carreto, self.oracle)?));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let fleet = receiver.fleet()?;
        let committed = fleet["servers"].as_array().into_iter().flatten();
        let committed = committed.filter(|server| server["committed"] == Value::Bool(true)).count();
        if committed != 3 {
            return Err(format!("the fleet says that {committed} servers are committed").into());
        }
        receiver.end()?;
        Ok(format!("all equal after {seconds:.1} s, pauses {} s", pauses.join(", ")))
    }

    fn line(&self, incompressible: bool) -> Result<String> {
        let _pins = Machine::prepare()?;
        let folder = self.folder.join("line");
        let source = if incompressible {
            Source::make(&folder, "ext4", SIZE)?
        } else {
            system_disk(&folder)?
        };
        let network = Network::new(9, Some("100mbit"))?;
        let address =
            format!("{}:{}", network.host, ends::free_address()?.rsplit(':').next().unwrap_or("0"));
        let target = folder.join("target.img");
        let routes =
            [Route { server: &ends::server(1), disk: source.disk.name()?, target: &target }];
        let listen = (&*address, &[&*address][..]);
        let receiver = Receiver::start(self.carreto, &folder.join("receiver"), listen, &routes)?;
        let wrapper = network.wrapper();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let (home, token) = (folder.join("agent"), receiver.token(&ends::server(1))?);
        let carreto = self.carreto.run_by(&wrapper);
        let agent = Agent::new(&carreto, (&home, &folder), token, &source.disk.device, "")?;
        let line =
            if incompressible { measured_line(&agent)? } else { measured_whole(&agent, SYSTEM)? };
        drop((agent, receiver, source, network));
        std::fs::remove_dir_all(folder)?;
        Ok(line)
    }

    fn limit(&self) -> Result<String> {
        let _pins = Machine::prepare()?;
        let folder = self.folder.join("limit");
        let source = Source::make(&folder, "ext4", SIZE)?;
        let (address, target) = (ends::free_address()?, folder.join("target.img"));
        let routes =
            [Route { server: &ends::server(1), disk: source.disk.name()?, target: &target }];
        let listen = (&*address, &[&*address][..]);
        let receiver = Receiver::start(self.carreto, &folder.join("receiver"), listen, &routes)?;
        let more = format!("bandwidth = '{}'", LIMIT.0);
        let (home, token) = (folder.join("agent"), receiver.token(&ends::server(1))?);
        let agent = Agent::new(self.carreto, (&home, &folder), token, &source.disk.device, &more)?;
        let sent = measured(&agent)?;
        agent_cleanup(&agent);
        if (sent / LIMIT.1 - 1.0).abs() > 0.1 {
            return Err(format!("{sent:.0} bytes per second with a limit of {:.0}", LIMIT.1).into());
        }
        Ok(format!("{:.2} MB/s with a limit of {:.2} MB/s", sent / 1e6, LIMIT.1 / 1e6))
    }
}

/// A disk as servers have it: programs and texts, and much that was never used.
fn system_disk(folder: &Path) -> Result<Source> {
    let source = Source::blank(folder, "ext4", SYSTEM)?;
    let script = "tar -C /usr -cf - bin lib share 2>/dev/null | head -c 320M | \
        split -b 8M - \"$0/part-\" && sync -f \"$0\"";
    run("sh", &["-c", script, super::super::carreto::text(&source.point())?])?;
    Ok(source)
}

/// Bytes of disk content per second in the middle of the first pass.
fn measured(agent: &Agent) -> Result<f64> {
    let mut program = agent.run()?;
    let first = reached(agent, &mut program, f64::from(24 << 20))?;
    let last = reached(agent, &mut program, SIZE as f64 * 0.9)?;
    let seconds = (last.0 - first.0).as_secs_f64();
    let sent = number(&last.1, "totals.data_bytes")? - number(&first.1, "totals.data_bytes")?;
    agent.wait_until_following(&mut program)?;
    program.terminate(MIGRATION)?;
    Ok(sent / seconds)
}

/// When so many bytes were sent, and the status then.
fn reached(agent: &Agent, program: &mut Program, bytes: f64) -> Result<(Instant, Value)> {
    let mut found = (Instant::now(), Value::Null);
    until("bytes are sent", MIGRATION, || {
        std::thread::sleep(Duration::from_millis(50));
        if program.has_ended()? {
            return Err(format!("the agent has ended: {}", program.stderr()?).into());
        }
        found = (Instant::now(), agent.status().unwrap_or_default());
        Ok(found.1["totals"]["data_bytes"].as_f64().is_some_and(|sent| sent >= bytes))
    })?;
    Ok(found)
}

fn measured_line(agent: &Agent) -> Result<String> {
    let content = measured(agent)?;
    agent_cleanup(agent);
    if content < LEAST {
        return Err(format!("{content:.0} bytes per second over a line of {LINE:.0}").into());
    }
    Ok(format!(
        "{:.2} MB/s of disk content over a line of {:.1} MB/s ({:.0} %)",
        content / 1e6,
        LINE / 1e6,
        content / LINE * 100.0
    ))
}

fn measured_whole(agent: &Agent, size: u64) -> Result<String> {
    let begun = Instant::now();
    let mut program = agent.run()?;
    let report = agent.wait_until_following(&mut program)?;
    let seconds = begun.elapsed().as_secs_f64();
    program.terminate(MIGRATION)?;
    agent_cleanup(agent);
    let (data, wire) =
        (number(&report, "totals.data_bytes")?, number(&report, "totals.wire_bytes")?);
    Ok(format!(
        "{:.1} MB of disk in {seconds:.1} s: {:.1} MB/s ({:.1} MB of data, {:.1} MB on the wire)",
        size as f64 / 1e6,
        size as f64 / 1e6 / seconds,
        data / 1e6,
        wire / 1e6
    ))
}

/// Takes the pins away.
fn agent_cleanup(agent: &Agent) {
    if let Err(error) = agent.order(&["cleanup"]) {
        println!("agent cleanup: {error}");
    }
}
