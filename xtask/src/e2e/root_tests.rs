//! Suite `root`: the tests of the stores that need loop devices.

use super::report::Tally;
use super::{Lab, process};
use crate::Result;

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let mut cargo = process::cargo(&lab.root);
    cargo.args(["test", "-p", "carreto-store", "--test", "local_root"]);
    let outcome = process::run(cargo.env("CARRETO_ROOT_TESTS", "1"))?;
    if !outcome.status.success() {
        return Err(outcome.said().into());
    }
    tally.add_passed(passed(&outcome.stdout));
    Ok(())
}

/// The number of tests that passed, as `cargo test` prints it.
pub(crate) fn passed(stdout: &str) -> usize {
    stdout
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|line| line.split_once(" passed")?.0.parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted() {
        let text = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored\n";
        assert_eq!(passed(text), 3);
        assert_eq!(passed("running 0 tests\n"), 0);
    }
}
