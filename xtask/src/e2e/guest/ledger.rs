//! The load of a guest, and the proof that none of its transactions was lost: the outside knows
//! the number and the checksum of each that was committed, and finds them in the databases.

use super::Moved;
use super::layout::Layout;
use super::machine::{Guest, SHORT};
use super::template::PROGRAM_FOLDER;
use crate::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

const ACKNOWLEDGE_LIMIT: Duration = Duration::from_mins(4);
const CHECK_LIMIT: Duration = Duration::from_mins(4);
const POLL: Duration = Duration::from_millis(200);

/// Checksums of transactions by their numbers.
type Entries = BTreeMap<u64, String>;

/// How many transactions the outside knows, and what was found of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) acknowledged: usize,
    /// Those of them that are in every database with the right checksum.
    pub(crate) found: usize,
    /// Committed, but cut off before they were acknowledged.
    pub(crate) more: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, found, more } = self;
        write!(f, "acknowledged {acknowledged}, found {found} (and {more} not acknowledged)")
    }
}

/// Begins the transactions, and the churn of the layouts that have one.
pub(crate) fn begin(guest: &mut Guest, layout: &Layout) -> Result<()> {
    let databases = layout.databases.join(" ");
    start(guest, "ledger", &format!("ledger.py write {databases}"))?;
    if let Some(folder) = layout.churn {
        start(guest, "churn", &format!("churn.py {folder}"))?;
    }
    Ok(())
}

/// Units that are gone with the next boot.
fn start(guest: &mut Guest, unit: &str, program: &str) -> Result<()> {
    let run = format!("systemd-run --quiet --unit={unit} python3 {PROGRAM_FOLDER}/{program}");
    guest.succeed(&run, SHORT)?;
    Ok(())
}

/// Waits until `more` transactions were acknowledged than by now.
pub(crate) fn wait_for(guest: &mut Guest, layout: &Layout, more: usize) -> Result<()> {
    let (start, before) = (Instant::now(), parse(&guest.acknowledged()?)?.len());
    loop {
        let now = parse(&guest.acknowledged()?)?.len();
        if now >= before + more {
            return active(guest, layout);
        }
        if start.elapsed() > ACKNOWLEDGE_LIMIT {
            let state = guest.run("systemctl --no-pager status ledger", SHORT)?;
            let text = format!("{} of {more} transactions came: {}", now - before, state.output);
            return Err(text.into());
        }
        sleep(POLL);
    }
}

/// An error when the load has died.
fn active(guest: &mut Guest, layout: &Layout) -> Result<()> {
    let units = if layout.churn.is_some() { "ledger churn" } else { "ledger" };
    guest.succeed(&format!("systemctl is-active {units}"), SHORT)?;
    Ok(())
}

/// Holds every database of a guest that was booted again against the lines that were
/// acknowledged. An error when any transaction is missing or wrong.
pub(crate) fn check(guest: &mut Guest, layout: &Layout, moved: &Moved) -> Result<Counts> {
    let acknowledged = parse(&moved.acknowledged)?;
    let mut counts = Vec::new();
    for database in layout.databases {
        let check = format!("python3 {PROGRAM_FOLDER}/ledger.py check {database}");
        let printed = guest.succeed(&check, CHECK_LIMIT)?;
        let (integrity, rows) = printed.split_once('\n').unwrap_or((&printed, ""));
        if integrity != "ok" {
            return Err(format!("{database}: integrity_check says {integrity}").into());
        }
        let found = compare(&acknowledged, &parse(rows)?, moved.interrupted + 1);
        counts.push(found.map_err(|error| format!("{database}: {error}"))?);
    }
    // Databases are written one after the other: the last has what all have.
    counts.last().copied().ok_or_else(|| "there is no database".into())
}

/// Lines of number and checksum. What a power cut left of the last line does not count.
fn parse(text: &str) -> Result<Entries> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<(u64, String)> {
    let (number, checksum) = line.split_once(' ').ok_or_else(|| format!("no entry: {line:?}"))?;
    Ok((number.parse()?, checksum.to_owned()))
}

/// `pending` are the moments at which one transaction may have been on its way.
fn compare(acknowledged: &Entries, rows: &Entries, pending: usize) -> Result<Counts> {
    if let Some((number, _)) = rows.iter().find(|(_, checksum)| *checksum == "wrong") {
        return Err(format!("transaction {number} does not have its checksum").into());
    }
    let is_there = |(number, checksum): &(&u64, &String)| rows.get(number) == Some(checksum);
    let found = acknowledged.iter().filter(is_there).count();
    let more = rows.keys().filter(|number| !acknowledged.contains_key(number)).count();
    let counts = Counts { acknowledged: acknowledged.len(), found, more };
    if acknowledged.is_empty() || found < counts.acknowledged {
        let lost = acknowledged.iter().find(|entry| !is_there(entry)).map(|(number, _)| number);
        return Err(format!("{counts}; the first that is lost: {lost:?}").into());
    }
    if more > pending {
        return Err(format!("{counts}: too many were never acknowledged").into());
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Entries {
        parse(text).expect("entries")
    }

    #[test]
    fn a_line_that_was_cut_off_was_not_acknowledged() {
        assert_eq!(entries("1 aa\n2 b").len(), 1);
        assert_eq!(entries("1 aa\n2 bb\n").len(), 2);
        assert!(entries("").is_empty() && entries("1 a").is_empty());
        assert!(parse("one aa\n").is_err() && parse("1\n").is_err());
    }

    #[test]
    fn every_transaction_is_found_and_at_most_one_more() {
        let acknowledged = entries("1 aa\n2 bb\n");
        let counts = |rows| compare(&acknowledged, &entries(rows), 1);
        let all = Counts { acknowledged: 2, found: 2, more: 0 };
        assert_eq!(counts("1 aa\n2 bb\n").expect("all"), all);
        let one_more = counts("1 aa\n2 bb\n3 cc\n").expect("all");
        assert_eq!(one_more, Counts { more: 1, ..all });
        assert_eq!(one_more.to_string(), "acknowledged 2, found 2 (and 1 not acknowledged)");
        for rows in ["1 aa\n", "1 aa\n2 xx\n", "1 aa\n2 wrong\n", "1 aa\n2 bb\n3 c\n4 d\n"] {
            assert!(counts(rows).is_err(), "{rows}");
        }
        assert!(compare(&Entries::new(), &Entries::new(), 1).is_err());
    }
}
