//! An NBD server over memory that can be told to break the protocol.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the server does wrong, once, at the first read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One chunk of half of what was asked for, and no more.
    Half,
    /// A chunk for bytes that were not asked for.
    Elsewhere,
    /// The same chunk twice.
    Twice,
    /// A reply to a request that was never made.
    Stranger,
    /// A chunk that claims 3 GiB.
    Huge,
    /// Something that is no reply.
    Garbage,
    /// A hole where the data is, longer than the request.
    LongHole,
    /// An error with this number.
    Refusal(u32),
    /// The connection ends.
    HangUp,
    /// No answer at all.
    Silence,
    /// Every connection ends at a write, and what was not flushed is gone: power was lost.
    PowerLoss,
    /// A write is answered with this error.
    WriteRefusal(u32),
}

impl Fault {
    fn is_of_writes(self) -> bool {
        matches!(self, Self::PowerLoss | Self::WriteRefusal(_))
    }
}

/// How the server behaves.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that servers lack")]
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    pub(crate) simple: bool,
    pub(crate) no_status: bool,
    pub(crate) read_only: bool,
    pub(crate) no_flush: bool,
    pub(crate) min_block: Option<u32>,
    /// Writes of zeros carry the flag for speed, and are refused or not.
    pub(crate) fast_zero: Option<bool>,
    /// Writes before the fault.
    pub(crate) fault_after: usize,
    /// The answer to the request for an export, instead of the export.
    pub(crate) refuse_export: Option<u32>,
    pub(crate) fault: Option<Fault>,
    /// The next client is served when the last has hung up.
    pub(crate) one_client: bool,
    /// Zeroing and trimming more than so many bytes is refused, with this error.
    pub(crate) zero_limit: Option<(u32, u32)>,
    /// The size that the server claims.
    pub(crate) claims: Option<u64>,
    /// A block status ends after so many bytes.
    pub(crate) status_bytes: Option<u32>,
    /// From the second connection on.
    pub(crate) later: Option<Later>,
}

/// What is different for all but the first connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Later {
    /// The export is not there, for one connection.
    Unknown,
    /// The blocks are twice as large.
    Blocks,
    /// There is no context for block states.
    NoStatus,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) disk: Arc<Mutex<Vec<u8>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) flushes: Arc<AtomicUsize>,
}

#[derive(Debug, Clone)]
struct Session {
    manner: Manner,
    disk: Arc<Mutex<Vec<u8>>>,
    fault: Arc<Mutex<Option<Fault>>>,
    /// What survives a loss of power.
    durable: Arc<Mutex<Vec<u8>>>,
    flushes: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
    /// Every loss of power ends the sessions that began before.
    losses: Arc<AtomicUsize>,
    /// Which connection this is, from 1 on; also the number of its context.
    number: usize,
}

struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

type Io<T> = std::io::Result<T>;

impl Server {
    pub(crate) async fn start(disk: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("nbd://{}/disk", listener.local_addr().unwrap());
        let disk = Arc::new(Mutex::new(disk));
        let connections = Arc::new(AtomicUsize::new(0));
        let fault = Arc::new(Mutex::new(manner.fault));
        let flushes = Arc::new(AtomicUsize::new(0));
        let session = Session {
            manner,
            durable: Arc::new(Mutex::new(disk.lock().unwrap().clone())),
            disk: Arc::clone(&disk),
            fault,
            flushes: Arc::clone(&flushes),
            writes: Arc::default(),
            losses: Arc::default(),
            number: 0,
        };
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
                let session = Session { number, ..session.clone() };
                let one_client = session.manner.one_client;
                let served = tokio::spawn(async move { session.serve(stream).await });
                if one_client {
                    // However the session ended, there is a place again.
                    let _ended = served.await;
                }
            }
        });
        Self { address, disk, connections, flushes }
    }
}

impl Session {
    fn is(&self, later: Later) -> bool {
        self.number > 1 && self.manner.later == Some(later)
    }

    async fn serve(self, mut stream: TcpStream) -> Io<()> {
        stream.write_u64(0x4E42_444D_4147_4943).await?;
        stream.write_u64(0x4948_4156_454F_5054).await?;
        stream.write_u16(3).await?;
        stream.read_u32().await?;
        if self.negotiate(&mut stream).await? { self.transmit(&mut stream).await } else { Ok(()) }
    }

    async fn negotiate(&self, stream: &mut TcpStream) -> Io<bool> {
        loop {
            stream.read_u64().await?;
            let option = stream.read_u32().await?;
            let len = stream.read_u32().await?;
            let mut data = vec![0; len as usize];
            stream.read_exact(&mut data).await?;
            match option {
                8 if !self.manner.simple => reply(stream, option, 1, &[]).await?,
                10 if !self.manner.no_status && !self.is(Later::NoStatus) => {
                    let number = (self.number as u32).to_be_bytes();
                    let context = [&number[..], b"base:allocation"].concat();
                    reply(stream, option, 4, &context).await?;
                    reply(stream, option, 1, &[]).await?;
                }
                7 => return self.export(stream).await,
                2 => return Ok(false),
                _ => reply(stream, option, 1 << 31 | 1, b"not here").await?,
            }
        }
    }

    async fn export(&self, stream: &mut TcpStream) -> Io<bool> {
        if let Some(kind) = self.manner.refuse_export {
            reply(stream, 7, kind, b"go\x1b away").await?;
            return Ok(false);
        }
        if self.is(Later::Unknown) && self.number == 2 {
            reply(stream, 7, 1 << 31 | 6, b"not yet").await?;
            return Ok(false);
        }
        // Flags, flush, trim, write zeroes, several connections.
        let mut flags: u16 = 1 | 4 | 32 | 64 | 256;
        flags |= if self.manner.read_only { 2 } else { 0 };
        flags |= if self.manner.fast_zero.is_some() { 1 << 11 } else { 0 };
        flags &= if self.manner.no_flush { !4 } else { !0 };
        let size = self.disk.lock().unwrap().len() as u64;
        let size = self.manner.claims.unwrap_or(size);
        let info = [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
        reply(stream, 7, 3, &info).await?;
        if let Some(min) = self.manner.min_block {
            let min = if self.is(Later::Blocks) { 2 * min } else { min };
            let sizes = [min, min, 1 << 20].map(u32::to_be_bytes).concat();
            reply(stream, 7, 3, &[&[0, 3][..], &sizes].concat()).await?;
        }
        reply(stream, 7, 1, &[]).await?;
        Ok(true)
    }

    async fn transmit(&self, stream: &mut TcpStream) -> Io<()> {
        let born = self.losses.load(Ordering::Relaxed);
        loop {
            stream.read_u32().await?;
            if self.losses.load(Ordering::Relaxed) != born {
                return Ok(());
            }
            let request = Request {
                flags: stream.read_u16().await?,
                command: stream.read_u16().await?,
                cookie: stream.read_u64().await?,
                offset: stream.read_u64().await?,
                len: stream.read_u32().await?,
            };
            if request.command == 2 {
                return Ok(());
            }
            if !self.handle(stream, &request).await? {
                return Ok(());
            }
        }
    }

    async fn handle(&self, stream: &mut TcpStream, request: &Request) -> Io<bool> {
        let Request { command, offset, len, .. } = *request;
        let range = offset as usize..offset as usize + len as usize;
        let block = u64::from(self.manner.min_block.unwrap_or(1));
        assert!(offset.is_multiple_of(block) && u64::from(len).is_multiple_of(block));
        match command {
            0 => {
                let fault = self.fault.lock().unwrap().take_if(|fault| !fault.is_of_writes());
                let bytes = self.disk.lock().unwrap()[range].to_vec();
                match fault {
                    None => self.data(stream, request, &bytes).await?,
                    Some(Fault::HangUp) => return Ok(false),
                    Some(fault) => wrong(stream, request, &bytes, fault).await?,
                }
            }
            1 => {
                let mut data = vec![0; len as usize];
                stream.read_exact(&mut data).await?;
                let number = self.writes.fetch_add(1, Ordering::Relaxed);
                let due = self.manner.fault.is_some() && number >= self.manner.fault_after;
                let wanted = |fault: &mut Fault| due && fault.is_of_writes();
                let fault = self.fault.lock().unwrap().take_if(wanted);
                match fault {
                    Some(Fault::PowerLoss) => {
                        self.losses.fetch_add(1, Ordering::Relaxed);
                        let durable = self.durable.lock().unwrap().clone();
                        *self.disk.lock().unwrap() = durable;
                        return Ok(false);
                    }
                    Some(Fault::WriteRefusal(code)) => {
                        wrong(stream, request, &[], Fault::Refusal(code)).await?;
                        return Ok(true);
                    }
                    _ => {}
                }
                self.disk.lock().unwrap()[range].copy_from_slice(&data);
                self.done(stream, request).await?;
            }
            3 => {
                self.flushes.fetch_add(1, Ordering::Relaxed);
                let disk = self.disk.lock().unwrap().clone();
                *self.durable.lock().unwrap() = disk;
                self.done(stream, request).await?;
            }
            6 if request.flags & 16 != 0 && self.manner.fast_zero == Some(false) => {
                wrong(stream, request, &[], Fault::Refusal(95)).await?;
            }
            4 | 6 if self.manner.zero_limit.is_some_and(|(limit, _)| len > limit) => {
                let (_, code) = self.manner.zero_limit.unwrap();
                wrong(stream, request, &[], Fault::Refusal(code)).await?;
            }
            4 | 6 => {
                self.disk.lock().unwrap()[range].fill(0);
                self.done(stream, request).await?;
            }
            7 => self.status(stream, request).await?,
            _ => unreachable!("command {command}"),
        }
        Ok(true)
    }

    async fn done(&self, stream: &mut TcpStream, request: &Request) -> Io<()> {
        if self.manner.simple {
            simple(stream, request, 0).await
        } else {
            chunk(stream, request, (1, 0), &[]).await
        }
    }

    /// Data in two chunks, the second first.
    async fn data(&self, stream: &mut TcpStream, request: &Request, bytes: &[u8]) -> Io<()> {
        if self.manner.simple {
            simple(stream, request, 0).await?;
            return stream.write_all(bytes).await;
        }
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let at = request.offset + first.len() as u64;
        chunk(stream, request, (0, 1), &[&at.to_be_bytes(), second].concat()).await?;
        if first.is_empty() {
            return chunk(stream, request, (1, 0), &[]).await;
        }
        if first.iter().all(|byte| *byte == 0) {
            let hole = [&request.offset.to_be_bytes()[..], &(first.len() as u32).to_be_bytes()];
            return chunk(stream, request, (1, 2), &hole.concat()).await;
        }
        let data = [&request.offset.to_be_bytes(), first].concat();
        chunk(stream, request, (1, 1), &data).await
    }

    /// Runs of 4 KiB; the last may reach past what was asked for.
    async fn status(&self, stream: &mut TcpStream, request: &Request) -> Io<()> {
        let mut payload = (self.number as u32).to_be_bytes().to_vec();
        if let Some(len) = self.manner.status_bytes {
            payload.extend([len.to_be_bytes(), [0; 4]].concat());
            return chunk(stream, request, (1, 5), &payload).await;
        }
        let start = request.offset as usize;
        let end = start + request.len as usize;
        let disk = self.disk.lock().unwrap()[start..].to_vec();
        let blocks = disk.chunks(4096).take((end - start).div_ceil(4096)).take(100);
        for block in blocks {
            let zero = block.iter().all(|byte| *byte == 0);
            payload.extend((block.len() as u32).to_be_bytes());
            payload.extend((if zero { 3_u32 } else { 0 }).to_be_bytes());
        }
        chunk(stream, request, (1, 5), &payload).await
    }
}

async fn reply(stream: &mut TcpStream, option: u32, kind: u32, data: &[u8]) -> Io<()> {
    stream.write_u64(0x0003_E889_0455_65A9).await?;
    stream.write_u32(option).await?;
    stream.write_u32(kind).await?;
    stream.write_u32(data.len() as u32).await?;
    stream.write_all(data).await
}

async fn simple(stream: &mut TcpStream, request: &Request, code: u32) -> Io<()> {
    stream.write_u32(0x6744_6698).await?;
    stream.write_u32(code).await?;
    stream.write_u64(request.cookie).await
}

async fn chunk(
    stream: &mut TcpStream,
    request: &Request,
    (flags, kind): (u16, u16),
    payload: &[u8],
) -> Io<()> {
    stream.write_u32(0x668E_33EF).await?;
    stream.write_u16(flags).await?;
    stream.write_u16(kind).await?;
    stream.write_u64(request.cookie).await?;
    stream.write_u32(payload.len() as u32).await?;
    stream.write_all(payload).await
}

async fn wrong(stream: &mut TcpStream, request: &Request, bytes: &[u8], fault: Fault) -> Io<()> {
    let at = |offset: u64, bytes: &[u8]| [&offset.to_be_bytes(), bytes].concat();
    let Request { cookie, offset, len, .. } = *request;
    match fault {
        Fault::Half => chunk(stream, request, (1, 1), &at(offset, &bytes[..bytes.len() / 2])).await,
        Fault::Elsewhere => chunk(stream, request, (1, 1), &at(offset + 1, bytes)).await,
        Fault::Twice => {
            chunk(stream, request, (0, 1), &at(offset, bytes)).await?;
            chunk(stream, request, (1, 1), &at(offset, bytes)).await
        }
        Fault::Stranger => {
            let other = Request { cookie: cookie + 77, ..*request };
            chunk(stream, &other, (1, 1), &at(offset, bytes)).await
        }
        Fault::Huge => {
            stream.write_u32(0x668E_33EF).await?;
            stream.write_u32(0x0001_0001).await?;
            stream.write_u64(cookie).await?;
            stream.write_u32(3 << 30).await?;
            stream.write_u64(offset).await
        }
        Fault::Garbage => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
        Fault::LongHole => {
            let hole = [&offset.to_be_bytes()[..], &(len + 1).to_be_bytes()].concat();
            chunk(stream, request, (1, 2), &hole).await
        }
        Fault::Refusal(code) => {
            let error = [&code.to_be_bytes()[..], &[0, 3], b"n\x1bo"].concat();
            chunk(stream, request, (1, 0x8001), &error).await
        }
        _ => Ok(()),
    }
}
