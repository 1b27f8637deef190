//! The thread that empties the buffers of a trace.
//!
//! A record is filled after its place was made visible, with interrupts off. So whoever reads on the
//! processor that writes never sees half a record, and the thread moves to each processor in turn.

use super::records::{Stream, Tally, Tracked};
use crate::track::marks::Drained;
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long buffers are left alone.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an answer of the thread is waited for; it reads memory only.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// More than the buffers of a processor hold; what comes later is for the next time.
const ENOUGH: usize = 2 * super::BUFFERS.size as usize * super::BUFFERS.count as usize;

/// What the thread is asked for. It reads everything first.
enum Question {
    Drain(Sender<Drained>),
    Tally(Sender<Tally>),
}

/// The running thread; it ends with this value.
#[derive(Debug)]
pub(super) struct Reader {
    questions: Option<Sender<Question>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Opens the buffers in `folder` and starts to read them.
    pub(super) fn start(folder: &Path, tracked: Tracked) -> Result<Self> {
        let buffers = open_all(folder)?;
        let (questions, asked) = channel();
        let run = move || run(buffers, tracked, &asked);
        let thread = std::thread::Builder::new().name("blktrace".to_owned()).spawn(run);
        let thread = thread
            .map_err(|error| Error::io(IoSide::State, "start a thread", "blktrace", error))?;
        Ok(Self { questions: Some(questions), thread: Some(thread) })
    }

    /// What was marked until now.
    pub(super) fn drain(&self) -> Result<Drained> {
        self.ask(Question::Drain)
    }

    /// What was counted until now.
    pub(super) fn tally(&self) -> Result<Tally> {
        self.ask(Question::Tally)
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Result<T> {
        let (sender, answer) = channel();
        let asked = self.questions.as_ref().is_some_and(|all| all.send(question(sender)).is_ok());
        let answer = asked.then(|| answer.recv_timeout(PATIENCE).ok()).flatten();
        answer.ok_or_else(|| Error::new(Kind::Io, "the trace is not read any more"))
    }

    /// Ends the thread.
    pub(super) fn stop(&mut self) {
        self.questions = None;
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The buffer of one processor.
struct Buffer {
    cpu: usize,
    path: PathBuf,
    file: File,
    stream: Stream,
}

/// The files `trace0`, `trace1` and so on; processors that are missing have none.
fn open_all(folder: &Path) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| closed(folder, error))? {
        let path = entry.map_err(|error| closed(folder, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(cpu) = name.and_then(|name| name.strip_prefix("trace")?.parse().ok()) else {
            continue;
        };
        let file = File::open(&path).map_err(|error| closed(&path, error))?;
        buffers.push(Buffer { cpu, path, file, stream: Stream::default() });
    }
    if buffers.is_empty() {
        let error = Error::new(Kind::Unsupported, "it has no buffers");
        return Err(error.path(folder.display().to_string()));
    }
    Ok(buffers)
}

/// Under lockdown, which comes with Secure Boot, even root cannot open files of debugfs.
fn closed(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let error = Error::new(Kind::Denied, "the kernel is locked down").caused_by(error);
        return error.during("open the trace").path(path.display().to_string());
    }
    Error::io(IoSide::Source, "open the trace", path.display().to_string(), error)
}

fn run(mut buffers: Vec<Buffer>, mut tracked: Tracked, asked: &Receiver<Question>) {
    let mut piece = vec![0; PIECE];
    loop {
        let question = asked.recv_timeout(PAUSE);
        for buffer in &mut buffers {
            buffer.empty(&mut piece, &mut tracked);
        }
        // Who asked and went away needs no answer.
        match question {
            Ok(Question::Drain(answer)) => drop(answer.send(tracked.take())),
            Ok(Question::Tally(answer)) => drop(answer.send(tracked.tally)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Buffer {
    fn empty(&mut self, piece: &mut [u8], tracked: &mut Tracked) {
        let mut here = CpuSet::new();
        if self.cpu < CpuSet::MAX_CPU {
            here.set(self.cpu);
            // A processor that is off writes nothing, and may be read from any other.
            let _ = sched_setaffinity(None, &here);
        }
        let mut total = 0;
        while total < ENOUGH {
            match self.file.read(piece) {
                Ok(0) => return,
                Ok(read) => {
                    total += read;
                    self.stream.feed(&piece[..read], tracked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // Whatever is behind this is lost.
                    tracked.tally.garbled += 1;
                    return;
                }
            }
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("path", &self.path).finish_non_exhaustive()
    }
}
