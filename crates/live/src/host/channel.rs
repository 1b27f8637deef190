//! What the agent and the watchdog say to each other: a question, an answer, over a socket that
//! keeps messages apart and carries open files.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Bytes of a message at most; longer names are cut.
const MAX_MESSAGE: usize = 8192;

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// Here is an open file of a file system, and what it is called.
    System(String),
    /// From now on the lease runs.
    Begin(Duration),
    /// The file system with this index is about to be frozen.
    Freezing(u32),
    /// The file system with this index is frozen now, or is not.
    Settled(u32, bool),
    /// The lease runs anew.
    Renew,
    /// Thaw everything and end.
    Thaw,
    /// Leave everything as it is and end.
    Release,
}

/// What the watchdog answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing was thawed.
    Held,
    /// Something was thawed, and why.
    Lost(String),
    /// All is thawed, and was frozen until now.
    Thawed,
}

impl Question {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::System(name) => tagged(b'S', name.as_bytes()),
            Self::Begin(lease) => {
                let millis = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
                tagged(b'B', &millis.to_le_bytes())
            }
            Self::Freezing(index) => tagged(b'F', &index.to_le_bytes()),
            Self::Settled(index, true) => tagged(b'Y', &index.to_le_bytes()),
            Self::Settled(index, false) => tagged(b'N', &index.to_le_bytes()),
            Self::Renew => tagged(b'R', &[]),
            Self::Thaw => tagged(b'T', &[]),
            Self::Release => tagged(b'L', &[]),
        }
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (tag, rest) = message.split_first()?;
        let index = || rest.try_into().ok().map(u32::from_le_bytes);
        Some(match tag {
            b'S' => Self::System(String::from_utf8_lossy(rest).into_owned()),
            b'B' => Self::Begin(Duration::from_millis(u64::from_le_bytes(rest.try_into().ok()?))),
            b'F' => Self::Freezing(index()?),
            b'Y' => Self::Settled(index()?, true),
            b'N' => Self::Settled(index()?, false),
            b'R' => Self::Renew,
            b'T' => Self::Thaw,
            b'L' => Self::Release,
            _ => return None,
        })
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Held => tagged(b'H', &[]),
            Self::Lost(why) => tagged(b'X', why.as_bytes()),
            Self::Thawed => tagged(b'T', &[]),
        }
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (tag, rest) = message.split_first()?;
        match tag {
            b'H' => Some(Self::Held),
            b'X' => Some(Self::Lost(String::from_utf8_lossy(rest).into_owned())),
            b'T' => Some(Self::Thawed),
            _ => None,
        }
    }
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(&rest[..rest.len().min(MAX_MESSAGE - 1)]);
    message
}

/// The two ends. Neither is inherited by programs that are started.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a message, and an open file with it. Never waits.
pub(super) fn send(
    channel: impl AsFd,
    message: &[u8],
    file: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(file) = &file
        && !control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)))
    {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let parts = [IoSlice::new(message)];
    retry_on_intr(|| sendmsg(&channel, &parts, &mut control, flags)).map(drop)
}

/// The next message and the file that came with it; empty when the other end is closed.
pub(super) fn receive(channel: impl AsFd) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
    let mut message = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut message)];
        recvmsg(&channel, &mut parts, &mut control, flags)
    })?;
    let mut files = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let file = files.next();
    message.truncate(received.bytes);
    Ok((message, file))
}

/// Waits until there is a message or the other end is closed; false when `limit` passed. Without
/// a limit it waits for ever.
pub(super) fn wait(channel: impl AsFd, limit: Option<Duration>) -> Result<bool, Errno> {
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
        let rest = rest.and_then(|rest| Timespec::try_from(rest).ok());
        let mut watched = [PollFd::new(&channel, PollFlags::IN)];
        match poll(&mut watched, rest.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn what_is_said_is_understood() {
        let questions = [
            Question::System("/mnt/ä".to_owned()),
            Question::Begin(Duration::from_millis(1500)),
            Question::Freezing(7),
            Question::Settled(u32::MAX, true),
            Question::Settled(0, false),
            Question::Renew,
            Question::Thaw,
            Question::Release,
        ];
        for question in questions {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        for answer in [Answer::Held, Answer::Lost("why".to_owned()), Answer::Thawed] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn rubbish_is_not_understood() {
        for message in [&b""[..], b"?", b"F", b"F12345", b"B1", b"Y\0\0"] {
            assert_eq!(Question::decode(message), None, "{message:?}");
            assert_eq!(Answer::decode(message), None, "{message:?}");
        }
        let long = Question::System("x".repeat(3 * MAX_MESSAGE)).encode();
        assert_eq!(long.len(), MAX_MESSAGE);
    }

    #[test]
    fn messages_carry_files_and_end() {
        let (here, there) = pair().unwrap();
        assert_eq!(wait(&there, Some(Duration::ZERO)), Ok(false));
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(&here, b"one", Some(writer.as_fd())).unwrap();
        send(&here, b"two", None).unwrap();
        drop(writer);
        assert_eq!(wait(&there, None), Ok(true));
        let (message, file) = receive(&there).unwrap();
        assert_eq!(message, b"one");
        std::fs::File::from(file.unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(receive(&there).unwrap().0, b"two");
        drop(here);
        assert_eq!(wait(&there, None), Ok(true));
        assert!(receive(&there).unwrap().0.is_empty());
        assert!(send(&there, b"x", None).is_err());
    }
}
