//! Counting what passed and what failed, and the table at the end.

use crate::Result;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What one suite found.
pub(crate) struct Tally {
    suite: &'static str,
    passed: usize,
    failures: Vec<String>,
    skipped: Option<String>,
    /// What the reader should know, such as steps that did not run.
    notes: Vec<String>,
    started: Instant,
    took: Duration,
}

impl Tally {
    pub(crate) fn new(suite: &'static str) -> Self {
        println!("== {suite}");
        Self {
            suite,
            passed: 0,
            failures: Vec::new(),
            skipped: None,
            notes: Vec::new(),
            started: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// Counts one check, and prints it at once when it failed.
    pub(crate) fn check(&mut self, label: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED {}: {label}: {error}", self.suite);
                self.failures.push(format!("{label}: {error}"));
            }
        }
    }

    /// Counts tests that somebody else ran and counted.
    pub(crate) fn add_passed(&mut self, count: usize) {
        self.passed += count;
    }

    /// Tells something at once and again at the end.
    pub(crate) fn note(&mut self, text: &str) {
        println!("{}: {text}", self.suite);
        self.notes.push(text.to_owned());
    }

    pub(crate) fn skip(&mut self, reason: &str) {
        println!("SKIPPED {}: {reason}", self.suite);
        self.skipped = Some(reason.to_owned());
    }

    pub(crate) fn finish(mut self) -> Self {
        self.took = self.started.elapsed();
        if self.passed == 0 && self.failures.is_empty() && self.skipped.is_none() {
            self.check("the suite itself", Err("it checked nothing".into()));
        }
        self
    }

    fn is_good(&self) -> bool {
        self.failures.is_empty()
    }
}

/// What the suites ran with.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Of servers and tools.
    pub(crate) versions: Vec<String>,
    /// What this run installed.
    pub(crate) installed: Vec<String>,
    /// How long all of it took, building included.
    pub(crate) total: Duration,
}

/// Prints the table; an error when anything failed.
pub(crate) fn print(tallies: &[Tally], with: &Surroundings) -> Result<()> {
    println!("\n{}", table(tallies));
    for version in &with.versions {
        println!("with {version}");
    }
    for installed in &with.installed {
        println!("installed by: {installed}");
    }
    if with.installed.is_empty() {
        println!("nothing had to be installed");
    }
    for tally in tallies {
        for note in &tally.notes {
            println!("{}: {note}", tally.suite);
        }
    }
    println!("all suites and builds: {:.0} s", with.total.as_secs_f32());
    for tally in tallies {
        for failure in &tally.failures {
            println!("FAILED {}: {failure}", tally.suite);
        }
    }
    let failed = tallies.iter().filter(|tally| !tally.is_good()).count();
    if failed > 0 {
        return Err(format!("{failed} of {} suites failed", tallies.len()).into());
    }
    Ok(())
}

fn table(tallies: &[Tally]) -> String {
    let mut text = String::from("suite         passed  failed  seconds\n");
    for tally in tallies {
        let (passed, failed) = (tally.passed, tally.failures.len());
        let seconds = tally.took.as_secs_f32();
        let note = tally.skipped.as_deref().map_or("", |_| "  SKIPPED");
        let suite = tally.suite;
        // Writing into a string does not fail.
        let _ = writeln!(text, "{suite:<12} {passed:>7} {failed:>7} {seconds:>8.1}{note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_fails_and_is_counted() {
        let mut tally = Tally::new("one");
        tally.check("good", Ok(()));
        tally.check("bad", Err("broken".into()));
        let tally = tally.finish();
        assert_eq!((tally.passed, tally.failures.len()), (1, 1));
        assert!(print(&[tally], &Surroundings::default()).is_err());
    }

    #[test]
    fn a_suite_that_checked_nothing_has_failed() {
        assert!(print(&[Tally::new("empty").finish()], &Surroundings::default()).is_err());
        let mut good = Tally::new("good");
        good.check("a check", Ok(()));
        assert!(print(&[good.finish()], &Surroundings::default()).is_ok());
    }

    #[test]
    fn a_skipped_suite_does_not_fail_but_shows() {
        let mut tally = Tally::new("away");
        tally.skip("not root");
        let tally = tally.finish();
        assert!(table(std::slice::from_ref(&tally)).contains("SKIPPED"));
        assert!(print(&[tally], &Surroundings::default()).is_ok());
    }
}
