//! Servers in network namespaces of their own, behind shaped links.

use super::disks::run;
use crate::Result;
use std::process::Command;

/// A server's network: a link to this machine. Goes away when dropped.
pub(super) struct Network {
    name: String,
    /// This machine as the server reaches it.
    pub(super) host: String,
}

impl Network {
    /// Number `number` of this process, with `rate` in both directions if it is said.
    pub(super) fn new(number: u8, rate: Option<&str>) -> Result<Self> {
        let name = format!("cte{}x{number}", std::process::id() % 100_000);
        let (here, there) = (format!("h{name}"), format!("s{name}"));
        let network = Self { name: name.clone(), host: format!("10.213.{number}.1") };
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {here} type veth peer name {there} netns {name}"))?;
        ip(&format!("addr add {}/24 dev {here}", network.host))?;
        ip(&format!("link set {here} up"))?;
        ip(&format!("-n {name} addr add 10.213.{number}.2/24 dev {there}"))?;
        ip(&format!("-n {name} link set {there} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        if let Some(rate) = rate {
            let shape = format!("root tbf rate {rate} burst 256kb latency 30ms");
            let tc = |words: &str| run("tc", &words.split(' ').collect::<Vec<_>>());
            tc(&format!("qdisc add dev {here} {shape}"))?;
            tc(&format!("-n {name} qdisc add dev {there} {shape}"))?;
        }
        Ok(network)
    }

    /// What runs a program there, with the files and mounts of this machine: `ip netns exec` would
    /// hide `/sys`.
    pub(super) fn wrapper(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.name)]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The link goes with its end.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        let _ = Command::new("ip").args(["link", "del", &format!("h{}", self.name)]).output();
    }
}
