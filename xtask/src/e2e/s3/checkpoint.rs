//! Uploads that die: counting what is sent and what has arrived, from outside.

use super::super::carreto::{Carreto, text};
use super::super::process::{Outcome, Running};
use super::super::proxy::Proxy;
use super::super::s3_client::Upload;
use super::Stage;
use crate::Result;
use std::path::{Path, PathBuf};

/// An upload that is killed again and again, with a folder of state of its own.
pub(super) struct Job {
    carreto: Carreto,
    source: PathBuf,
    key: String,
    options: Vec<String>,
    /// In front of a server of our own.
    proxy: Option<Proxy>,
    /// Uploads that nobody can know of: begun by a run that died before it could write that down.
    unknown: usize,
}

impl Job {
    pub(super) fn new(stage: &Stage, key: &str, source: &Path, options: &[&str]) -> Result<Self> {
        let proxy = stage.server.address().map(Proxy::start).transpose()?;
        let mut carreto = stage.carreto.with_state(stage.folder.join(format!("state-{key}")));
        if let Some(proxy) = &proxy {
            carreto = carreto.with_variable("AWS_ENDPOINT_URL", &proxy.url());
        }
        Ok(Self {
            carreto,
            source: source.to_owned(),
            key: key.to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
            proxy,
            unknown: 0,
        })
    }

    /// A run with options that do not belong to the job.
    pub(super) fn spawn(&self, stage: &Stage, more: &[&str]) -> Result<Running> {
        let url = stage.url(&self.key);
        let words = ["upload", text(&self.source)?, &url];
        let options: Vec<_> =
            self.options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.carreto.spawn(&self.carreto.job(&words, &options)?)
    }

    /// The report of a run that ended with `exit`.
    pub(super) fn report(outcome: &Outcome, exit: i32) -> Result<serde_json::Value> {
        if outcome.status.code() != Some(exit) {
            return Err(format!("{}, wanted {exit}: {}", outcome.status, outcome.said()).into());
        }
        Ok(serde_json::from_str(&outcome.stdout)?)
    }

    /// To be called when a run or the server has died.
    pub(super) fn note_death(&mut self) -> Result<()> {
        if !self.is_written_down()? {
            self.unknown += 1;
        }
        Ok(())
    }

    /// Runs another command, which must succeed, with the state of the job.
    pub(super) fn run(&self, words: &[&str]) -> Result<Outcome> {
        self.carreto.expect(0, &self.carreto.job(words, &[])?)
    }

    /// Whether a rerun will find what was begun.
    pub(super) fn is_written_down(&self) -> Result<bool> {
        let jobs = self.carreto.state().join("jobs");
        if !jobs.exists() {
            return Ok(false);
        }
        for entry in std::fs::read_dir(jobs)? {
            if entry?.path().extension().is_some_and(|end| end == "parts") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes that went out so far; known for a server of our own.
    pub(super) fn sent(&self) -> Option<u64> {
        self.proxy.as_ref().map(Proxy::sent)
    }

    /// Bytes of parts that the server has; none when no upload is under way, because it is not
    /// begun or has been completed.
    pub(super) fn arrived(&self, stage: &Stage) -> Result<Option<u64>> {
        let mut most = None;
        for upload in self.uploads(stage)? {
            most = most.max(Some(stage.server.client.parts_size(&stage.bucket, &upload)?));
        }
        Ok(most)
    }

    fn uploads(&self, stage: &Stage) -> Result<Vec<Upload>> {
        stage.server.client.uploads(&stage.bucket, &self.key)
    }

    /// What is left after the end: only what nobody can know of, which is freed here.
    pub(super) fn expect_nothing_left(&self, stage: &Stage) -> Result<usize> {
        let left = self.uploads(stage)?;
        if left.len() > self.unknown {
            let unknown = self.unknown;
            return Err(format!("{} uploads are left, at most {unknown} may be", left.len()).into());
        }
        for upload in &left {
            stage.server.client.abort(&stage.bucket, upload)?;
        }
        Ok(left.len())
    }
}
