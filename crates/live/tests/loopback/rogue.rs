//! An agent that was let in and breaks the rules.

use crate::scene::{Scene, noise};
use carreto_error::Result;
use carreto_live::frame::{
    CONTROL_LIMIT, DATA_LIMIT, Frame, FrameReader, FrameWriter, decode, encode,
};
use carreto_live::ledger::leaf_of;
use carreto_live::trust::{Dialer, Hidden, Identity, JoinToken, TlsStream};
use carreto_live::wire::{
    Attach, Batch, Control, Entry, Hello, PROTOCOL, Ranges, SourceDisk, Welcome, kind,
};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};

pub(crate) struct Line {
    reader: FrameReader<ReadHalf<TlsStream>>,
    pub(crate) writer: FrameWriter<WriteHalf<TlsStream>>,
}

impl Line {
    pub(crate) async fn open(scene: &Scene) -> Self {
        Self::with_key(scene, "agent").await
    }

    /// With the key in the folder `name`, a new one the first time.
    pub(crate) async fn with_key(scene: &Scene, name: &str) -> Self {
        let folder = scene.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let identity = Identity::load_or_create(&folder, "agent").unwrap();
        let token: JoinToken = scene.token.parse().unwrap();
        let dialer = Dialer::new(&identity, token.receiver, None).unwrap();
        let stream = dialer.dial(&token.addresses[0], Duration::from_secs(9)).await.unwrap();
        let (reader, writer) = tokio::io::split(stream);
        let reader = FrameReader::new(reader, CONTROL_LIMIT);
        Self { reader, writer: FrameWriter::new(writer, DATA_LIMIT) }
    }

    pub(crate) async fn send(&mut self, kind: u8, payload: &[u8]) {
        self.writer.send(kind, &[payload]).await.unwrap();
        self.writer.flush().await.unwrap();
    }

    pub(crate) async fn say(&mut self, message: &Control) {
        self.send(kind::CONTROL, &encode(message).unwrap()).await;
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        tokio::time::timeout(Duration::from_secs(9), self.reader.next()).await.expect("an answer")
    }

    pub(crate) async fn hear(&mut self) -> Control {
        decode(&self.next().await.unwrap().unwrap().payload).unwrap()
    }

    /// What the receiver says against it, after whatever else it says.
    pub(crate) async fn complaint(&mut self) -> String {
        loop {
            let frame = self.next().await.unwrap().expect("a complaint");
            if frame.kind != kind::CONTROL {
                continue;
            }
            if let Control::Failed(failed) = decode(&frame.payload).unwrap() {
                return failed.detail;
            }
        }
    }
}

/// What the receiver answers to the key in the folder `name`, which shows the scene's token.
pub(crate) async fn greet(scene: &Scene, name: &str) -> (Line, Control) {
    let mut line = Line::with_key(scene, name).await;
    let token: JoinToken = scene.token.parse().unwrap();
    line.say(&Control::Hello(Hello {
        protocol: PROTOCOL,
        version: "9".to_owned(),
        server: token.server,
        secret: Some(token.secret.to_text()),
        host: "rogue".to_owned(),
        preflight: false,
    }))
    .await;
    let heard = line.hear().await;
    (line, heard)
}

pub(crate) async fn welcome(scene: &Scene) -> (Line, Welcome) {
    match greet(scene, "agent").await {
        (line, Control::Welcome(welcome)) => (line, welcome),
        (_, other) => panic!("{other:?}"),
    }
}

pub(crate) async fn attach(scene: &Scene, welcome: &Welcome) -> Line {
    let mut line = knock(scene, welcome, 0).await;
    assert!(matches!(line.hear().await, Control::Attached));
    line
}

/// A data connection that was not answered yet.
pub(crate) async fn knock(scene: &Scene, welcome: &Welcome, stream: u16) -> Line {
    let mut line = Line::open(scene).await;
    line.say(&Control::Attach(Attach { ticket: welcome.ticket.clone(), stream })).await;
    line
}

pub(crate) fn disks(scene: &Scene) -> Vec<SourceDisk> {
    let disk = |disk: &std::sync::Arc<crate::machine::Disk>| SourceDisk {
        name: disk.name.clone(),
        identity: format!("serial:{}:{}", disk.name, disk.size),
        size: disk.size,
    };
    scene.machine.disks.iter().map(disk).collect()
}

/// A session with open disks and one data connection.
pub(crate) async fn opened(scene: &Scene) -> (Line, Line) {
    let (control, data, _welcome) = introduced(scene).await;
    (control, data)
}

/// As [`opened`], with what the receiver said at first.
pub(crate) async fn introduced(scene: &Scene) -> (Line, Line, Welcome) {
    let (mut control, welcome) = welcome(scene).await;
    control.say(&Control::Open { disks: disks(scene) }).await;
    while !matches!(control.hear().await, Control::Opened { .. }) {}
    for _ in 0..2 {
        assert_eq!(control.next().await.unwrap().unwrap().kind, kind::VALUES);
    }
    let data = attach(scene, &welcome).await;
    (control, data, welcome)
}

pub(crate) fn batch(
    disk: u16,
    granule: u64,
    bytes: &[u8],
    packed: bool,
    payload: &[u8],
) -> Vec<u8> {
    let leaf = leaf_of(granule, bytes);
    let entries = vec![Entry { granule, leaf, same_as: None }];
    let batch = Batch { sequence: 1, disk, entries, packed, payload };
    [batch.encode_head(), payload.to_vec()].concat()
}

pub(crate) fn zeros(disk: u16, start: u64, end: u64) -> Vec<u8> {
    Ranges { sequence: 1, disk, ranges: vec![(start, end)] }.encode()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_break_a_rule_write_nothing() {
    let scene = Scene::small().await;
    let good = noise(1, 65536);
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    let reference = |from: (u16, u64)| {
        let entries = vec![Entry { granule: 30, leaf: [1; 32], same_as: Some(from) }];
        Batch { sequence: 1, disk: 0, entries, packed: false, payload: &[] }.encode_head()
    };
    let cases = [
        (kind::BATCH, batch(0, 4_000_000, &good, false, &good), "past the end"),
        (kind::BATCH, batch(0, u64::MAX / 65536, &good, false, &good), "past the end"),
        (kind::BATCH, batch(9, 30, &good, false, &good), "no disk 9"),
        (kind::BATCH, batch(0, 30, b"other", false, &good), "does not have the digest"),
        (kind::BATCH, batch(0, 30, &good, true, &good), "does not decompress"),
        (kind::BATCH, batch(0, 30, &good, true, &bomb), "does not decompress"),
        (kind::BATCH, batch(0, 30, &good, false, &good[1..]), "65535 bytes"),
        (kind::BATCH, vec![1, 2, 3], "ends within"),
        (kind::BATCH, reference((7, 1)), "no disk 7"),
        (kind::BATCH, reference((0, u64::MAX)), "past the end"),
        (kind::ZEROS, zeros(0, 30, 4000), "past the end"),
        (kind::ZEROS, zeros(0, u64::MAX - 1, u64::MAX), "past the end"),
        (kind::ZEROS, zeros(3, 0, 1), "no disk 3"),
        (77, vec![], "no frame 77"),
    ];
    for (kind, payload, complaint) in cases {
        let (mut control, mut data) = opened(&scene).await;
        data.send(kind, &payload).await;
        let heard = data.complaint().await;
        assert!(heard.contains(complaint), "{complaint}: {heard}");
        let heard = control.complaint().await;
        assert!(heard.contains(complaint), "{complaint}, on the control connection: {heard}");
    }
    for disk in 0..2 {
        assert_eq!(scene.platter(disk).written.load(Ordering::Acquire), 0);
    }
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_out_of_turn_end_the_session_and_nothing_else() {
    let scene = Scene::small().await;
    let commit = || Control::Commit { certificate: "{}".to_owned() };
    let cases = [
        (Control::Check { everything: true, most: None }, "nothing was opened"),
        (Control::Want { disk: 0, pages: vec![0] }, "nothing was opened"),
        (Control::Sync, "nothing was opened"),
        (commit(), "it is no certificate"),
        (Control::Committed { certificate: String::new() }, "the agent said"),
        (Control::Open { disks: Vec::new() }, "the source has no disk vda"),
    ];
    for (message, complaint) in cases {
        let (mut control, welcome) = welcome(&scene).await;
        let mut data = attach(&scene, &welcome).await;
        control.say(&message).await;
        let heard = control.complaint().await;
        assert!(heard.contains(complaint), "{complaint}: {heard}");
        assert!(data.complaint().await.contains(complaint));
    }
    let (mut control, _data) = opened(&scene).await;
    control.say(&Control::Want { disk: 0, pages: vec![u64::MAX] }).await;
    assert!(control.complaint().await.contains("no page"));
    let (mut control, _data) = opened(&scene).await;
    let size = u64::MAX;
    let huge = disks(&scene).into_iter().map(|disk| SourceDisk { size, ..disk }).collect();
    control.say(&Control::Open { disks: huge }).await;
    assert!(control.complaint().await.contains("at most"));
    // Data before anything is open, and a ticket that nobody has.
    let (_control, welcome) = welcome(&scene).await;
    let mut data = attach(&scene, &welcome).await;
    data.send(kind::ZEROS, &zeros(0, 20, 21)).await;
    assert!(data.complaint().await.contains("nothing was opened"));
    let mut stranger = Line::open(&scene).await;
    stranger
        .say(&Control::Attach(Attach { ticket: Hidden::new("00".to_owned()), stream: 0 }))
        .await;
    assert!(!matches!(stranger.next().await, Ok(Some(_))));
    // The right ticket, shown by a key that it was not given to.
    let (_control, welcome) = self::welcome(&scene).await;
    let mut stranger = Line::with_key(&scene, "stranger").await;
    stranger.say(&Control::Attach(Attach { ticket: welcome.ticket.clone(), stream: 0 })).await;
    assert!(!matches!(stranger.next().await, Ok(Some(_))));
    attach(&scene, &welcome).await;
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_does_not_hold_is_refused_and_written_nowhere() {
    let scene = Scene::small().await;
    let (_control, mut data) = opened(&scene).await;
    let entries = vec![Entry { granule: 30, leaf: [1; 32], same_as: Some((0, 40)) }];
    let head = Batch { sequence: 5, disk: 0, entries, packed: false, payload: &[] }.encode_head();
    data.send(kind::BATCH, &head).await;
    let frame = data.next().await.unwrap().unwrap();
    let answer = carreto_live::wire::Answer::decode(&frame.payload).unwrap();
    assert_eq!((answer.sequence, answer.refused), (5, vec![30]));
    assert_eq!(scene.platter(0).written.load(Ordering::Acquire), 0);
}
