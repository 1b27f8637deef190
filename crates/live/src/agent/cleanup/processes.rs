//! The agent of a server and its watchdog, as `/proc` shows them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes of a file of `/proc` that are read.
const MOST_BYTES: u64 = 4 << 20;

/// The processes that hold the lock at `path`, without this one (`proc_locks(5)`).
pub(super) fn holders(path: &Path) -> Vec<u32> {
    let Ok(found) = fs::metadata(path) else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let text = text(Path::new("/proc/locks"));
    let lines = text.lines().filter_map(|line| holder(line, &wanted));
    lines.filter(|process| *process != std::process::id()).collect()
}

/// `1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF`
fn holder(line: &str, wanted: &str) -> Option<u32> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let ["FLOCK", _, _, process, file, ..] = fields.get(1..)? else { return None };
    (*file == wanted).then(|| process.parse().ok())?
}

/// The `agents` and the watchdogs that belong to one of them or to no agent that lives.
pub(super) fn of(agents: &[u32]) -> Vec<String> {
    let mut list: Vec<String> = agents.iter().map(|process| format!("{process} (agent)")).collect();
    for process in all() {
        if !is_watchdog(&arguments(process)) {
            continue;
        }
        let parent = parent(process).unwrap_or(0);
        if agents.contains(&parent) || !is_agent(&arguments(parent)) {
            list.push(format!("{process} (watchdog)"));
        }
    }
    list
}

/// All processes but this one.
pub(super) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|process| *process != std::process::id()).collect()
}

fn arguments(process: u32) -> Vec<String> {
    let text = text(&Path::new("/proc").join(process.to_string()).join("cmdline"));
    text.split('\0').map(str::to_owned).collect()
}

/// As an agent starts it.
fn is_watchdog(arguments: &[String]) -> bool {
    arguments.windows(2).skip(1).any(|pair| pair == ["agent", "watchdog"])
}

/// As people start it, options between.
fn is_agent(arguments: &[String]) -> bool {
    let mut rest = arguments.iter().skip(1);
    ["agent", "run"].iter().all(|word| rest.any(|argument| argument == word))
}

fn parent(process: u32) -> Option<u32> {
    let text = text(&Path::new("/proc").join(process.to_string()).join("stat"));
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// What can be read of a file, lossily.
pub(super) fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock() {
        let line = "1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF";
        assert_eq!(holder(line, "08:01:1234"), Some(708));
        assert_eq!(holder(line, "08:01:123"), None);
        assert_eq!(holder("2: POSIX  ADVISORY  WRITE 708 08:01:1234 0 EOF", "08:01:1234"), None);
        assert_eq!(holder("3: FLOCK  ADVISORY  WRITE -1 08:01:1234 0", "08:01:1234"), None);
        assert_eq!(holder("", ""), None);
    }

    #[test]
    fn commands_are_told_by_their_words() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_watchdog(&words("/x/carreto agent watchdog")));
        assert!(!is_watchdog(&words("agent watchdog")));
        assert!(!is_watchdog(&words("carreto watchdog agent")));
        assert!(is_agent(&words("carreto -v agent --output json run -c a")));
        assert!(!is_agent(&words("carreto run agent")));
    }

    #[test]
    fn this_process_has_a_parent() {
        assert!(parent(std::process::id()).is_some());
    }
}
