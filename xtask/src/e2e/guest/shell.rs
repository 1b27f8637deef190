//! Commands for a guest, and their answers, as lines of JSON over a port of its own: it works
//! without a network and while the guest's file systems are frozen.

use crate::Result;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How often a wait looks at whether the guest still runs.
const LOOK: Duration = Duration::from_millis(250);
/// What the guest may take to kill a command at its limit, and to answer.
const GRACE: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Negative: the signal that killed it.
    pub(crate) exit: i64,
    /// What it printed, on both of its outputs.
    pub(crate) output: String,
}

/// A connection to the shell of a guest.
#[derive(Debug)]
pub(crate) struct Shell {
    stream: UnixStream,
    /// Of an answer that is not whole yet.
    pending: Vec<u8>,
    /// The number of the last request.
    last: u64,
}

impl Shell {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(GRACE))?;
        Ok(Self { stream, pending: Vec::new(), last: 0 })
    }

    /// Runs `command` in the guest's bash, for `limit` at most. `look` is called again and again
    /// meanwhile, and its error ends the wait.
    pub(crate) fn run(
        &mut self,
        command: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<Answer> {
        self.last += 1;
        let request = json!({ "id": self.last, "command": command, "limit": limit.as_secs() });
        self.stream.write_all(format!("{request}\n").as_bytes())?;
        let deadline = Instant::now() + limit + GRACE;
        loop {
            while let Some(line) = self.line() {
                // An answer to an earlier request came after the wait for it.
                if line["id"] == self.last {
                    return answer(&line);
                }
            }
            look()?;
            if Instant::now() > deadline {
                return Err(format!("the guest does not answer: {command}").into());
            }
            self.receive()?;
        }
    }

    /// The next whole line, if one is here.
    fn line(&mut self) -> Option<Value> {
        let end = self.pending.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        Some(serde_json::from_slice(&line).unwrap_or(Value::Null))
    }

    /// Takes what has arrived, waiting for it for [`LOOK`] at most.
    fn receive(&mut self) -> Result<()> {
        let mut chunk = [0; 1 << 14];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err("the guest is gone".into()),
            Ok(count) => {
                self.pending.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn answer(line: &Value) -> Result<Answer> {
    let exit = line["exit"].as_i64().ok_or("an answer without exit")?;
    let output = line["output"].as_str().ok_or("an answer without output")?.to_owned();
    Ok(Answer { exit, output })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::thread::spawn;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A guest that answers each request with the lines that `reply` makes of it.
    fn guest(reply: impl Fn(Value) -> String + Send + 'static) -> Shell {
        let (here, mut there) = UnixStream::pair().expect("a pair");
        spawn(move || {
            let requests = BufReader::new(there.try_clone().expect("a clone"));
            for line in requests.lines().map_while(std::io::Result::ok) {
                let reply = reply(serde_json::from_str(&line).expect("JSON"));
                there.write_all(reply.as_bytes()).expect("written");
            }
        });
        Shell::new(here).expect("a shell")
    }

    #[test]
    fn answers_are_matched_by_their_number() {
        let mut shell = guest(|request| {
            let id = request["id"].as_u64().expect("a number");
            let output = request["command"].as_str().expect("a command");
            let late = json!({ "id": id - 1, "exit": 9, "output": "late" });
            format!("{late}\nnoise\n{}\n", json!({ "id": id, "exit": 3, "output": output }))
        });
        for command in ["one", "two\nlines"] {
            let found = shell.run(command, LIMIT, || Ok(())).expect("an answer");
            assert_eq!(found, Answer { exit: 3, output: command.to_owned() });
        }
    }

    #[test]
    fn a_wait_ends_with_the_guest() {
        let mut silent = guest(|_| String::new());
        let ended = silent.run("true", LIMIT, || Err("it ended".into()));
        assert_eq!(ended.expect_err("no answer").to_string(), "it ended");
        let (here, there) = UnixStream::pair().expect("a pair");
        drop(there);
        let mut gone = Shell::new(here).expect("a shell");
        assert!(gone.run("true", LIMIT, || Ok(())).is_err());
    }
}
