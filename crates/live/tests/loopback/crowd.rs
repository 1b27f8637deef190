//! Agents that take more than is theirs: connections, time, and disks that are complete.

use crate::rogue::{Line, attach, batch, disks, introduced, knock, opened, welcome, zeros};
use crate::scene::{MIB, Scene, noise};
use crate::target::Platter;
use carreto_live::certificate::{Audits, Certificate, Disk, Mode, Role, Root, Statement};
use carreto_live::trust::{Hidden, Identity, JoinToken};
use carreto_live::wire::{Attach, Control, Knowledge, SourceDisk, Welcome, kind};
use std::sync::atomic::Ordering;

/// The claim, signed by the agent's key, that every disk of the scene is zero.
fn claim(scene: &Scene, welcome: &Welcome) -> Control {
    let token: JoinToken = scene.token.parse().unwrap();
    let identity = Identity::load_or_create(&scene.folder.path().join("agent"), "agent").unwrap();
    let disk = |disk: &std::sync::Arc<crate::machine::Disk>| Disk {
        source: disk.name.clone(),
        identity: format!("serial:{}:{}", disk.name, disk.size),
        size: disk.size,
        root: Root::from_bytes(blake3::hash(&vec![0; usize::try_from(disk.size).unwrap()]).into()),
        rehashed: 0,
        sent_frozen: 0,
        target: format!("to-{}", disk.name),
    };
    let mut certificate = Certificate::new(Statement {
        version: Statement::VERSION,
        migration: welcome.migration.clone(),
        server: token.server,
        carreto: "9".to_owned(),
        mode: Mode::Strict,
        disks: scene.machine.disks.iter().map(disk).collect(),
        frozen_at: jiff::Timestamp::now(),
        committed_at: jiff::Timestamp::now(),
        pause_ms: 1,
        audits: Audits::default(),
        trackers: vec!["rescan".to_owned()],
        unfrozen: Vec::new(),
        agent: identity.fingerprint(),
        receiver: token.receiver,
    })
    .unwrap();
    certificate.sign(Role::Agent, &identity).unwrap();
    Control::Commit { certificate: certificate.to_json().unwrap() }
}

/// A session whose disks are zero from end to end.
async fn zeroed(scene: &Scene) -> (Line, Line, Welcome) {
    let (control, mut data, welcome) = introduced(scene).await;
    for (number, disk) in (0u16..).zip(&scene.machine.disks) {
        data.send(kind::ZEROS, &zeros(number, 0, disk.size.div_ceil(65536))).await;
        assert_eq!(data.next().await.unwrap().unwrap().kind, kind::ANSWER);
    }
    (control, data, welcome)
}

/// The next message that is no sign of life.
async fn answer(line: &mut Line) -> Control {
    loop {
        match line.hear().await {
            Control::Ping => {}
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_comes_after_the_commit_is_written_nowhere() {
    let scene = Scene::small().await;
    let (mut control, mut data, welcome) = zeroed(&scene).await;
    control.say(&claim(&scene, &welcome)).await;
    let answer = answer(&mut control).await;
    assert!(matches!(answer, Control::Committed { .. }), "{answer:?}");
    let bytes = noise(1, 65536);
    data.send(kind::BATCH, &batch(0, 30, &bytes, false, &bytes)).await;
    assert!(data.complaint().await.contains("after the commit"));
    assert!(scene.platter(0).content().iter().all(|byte| *byte == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_comes_while_the_claim_is_checked_is_written_nowhere() {
    let scene = Scene::small().await;
    let (mut control, mut data, welcome) = zeroed(&scene).await;
    let guard = scene.platter(0).hold_reads();
    control.say(&claim(&scene, &welcome)).await;
    assert!(matches!(control.hear().await, Control::Ping), "it is being checked");
    data.send(kind::ZEROS, &zeros(0, 30, 31)).await;
    assert!(data.complaint().await.contains("after the commit"));
    drop(guard);
    // It broke the rules before anything was complete.
    assert!(control.complaint().await.contains("after the commit"));
    assert!(!scene.receiver().status().servers[0].committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_what_is_being_written() {
    let scene = Scene::small().await;
    let (mut control, mut data, welcome) = zeroed(&scene).await;
    let guard = scene.platter(0).hold_writes();
    let bytes = vec![0; 65536];
    data.send(kind::BATCH, &batch(0, 30, &bytes, false, &bytes)).await;
    scene.platter(0).until_waiting().await;
    control.say(&claim(&scene, &welcome)).await;
    assert!(matches!(control.hear().await, Control::Ping), "it waits");
    drop(guard);
    let answer = answer(&mut control).await;
    assert!(matches!(answer, Control::Committed { .. }), "{answer:?}");
    assert_eq!(data.next().await.unwrap().unwrap().kind, kind::ANSWER);
}

/// A session that waits for its target to be read again, which `hold_reads` keeps from going on.
async fn rereading(scene: &Scene) -> (Line, Welcome) {
    let (mut control, welcome) = welcome(scene).await;
    control.say(&Control::Open { disks: disks(scene) }).await;
    assert!(matches!(control.hear().await, Control::Ping), "it is being read");
    (control, welcome)
}

/// The receiver's system restarts, and has a second server now.
async fn restart(scene: &mut Scene) {
    scene.shut().await;
    scene.targets.boot.fetch_add(1, Ordering::AcqRel);
    let neighbour = Platter::new(vec![0; MIB]);
    scene.targets.platters.lock().unwrap().insert("to-vdz".to_owned(), neighbour);
    let neighbour =
        ["[[server]]", "name = 'web2'", "[[server.disk]]", "source = 'vdz'", "target = 'to-vdz'"];
    scene.neighbours = neighbour.join("\n");
    scene.serve().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_being_opened_keeps_nobody_else_out() {
    let mut scene = Scene::small().await;
    drop(opened(&scene).await);
    restart(&mut scene).await;
    let guard = scene.platter(0).hold_reads();
    let (mut first, own) = rereading(&scene).await;
    let _data = attach(&scene, &own).await;
    assert_eq!(scene.receiver().status().servers[0].connected, Some(true));
    // Who knows no ticket is sent away at once, and makes room for the next one.
    for _ in 0..70 {
        let mut line = Line::open(&scene).await;
        let ticket = Hidden::new("00".to_owned());
        line.say(&Control::Attach(Attach { ticket, stream: 0 })).await;
        assert!(!matches!(line.next().await, Ok(Some(_))));
    }
    let token = scene.receiver().invite(false).unwrap()[0].token.to_string();
    let token = std::mem::replace(&mut scene.token, token);
    let (_control, neighbours) = welcome(&scene).await;
    attach(&scene, &neighbours).await;
    scene.token = token;
    drop(guard);
    let answer = answer(&mut first).await;
    assert!(matches!(answer, Control::Opened { .. }), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_as_many_data_connections_as_it_was_given() {
    let scene = Scene::small().await;
    let (mut control, welcome) = welcome(&scene).await;
    assert_eq!(welcome.streams, 3);
    let mut lines = Vec::new();
    for stream in 0..3 {
        let mut line = knock(&scene, &welcome, stream).await;
        assert!(matches!(line.hear().await, Control::Attached));
        lines.push(line);
    }
    for (stream, complaint) in [(3, "3 are allowed"), (u16::MAX, "3 are allowed"), (1, "already")] {
        let heard = knock(&scene, &welcome, stream).await.complaint().await;
        assert!(heard.contains(complaint), "{complaint}: {heard}");
    }
    // One that ends makes room, and comes back while it is still ending.
    let mut again = knock(&scene, &welcome, 1).await;
    lines[1].writer.end().await.unwrap();
    assert!(matches!(again.hear().await, Control::Attached));
    control.say(&Control::Ping).await;
    assert!(matches!(control.hear().await, Control::Ping), "the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_opened_when_a_connection_breaks_is_taken_up_by_the_next() {
    let mut scene = Scene::small().await;
    drop(opened(&scene).await);
    restart(&mut scene).await;
    scene.targets.opens.store(0, Ordering::Release);
    let guard = scene.platter(1).hold_reads();
    for _ in 0..3 {
        // The connection breaks, and what it asked for goes on.
        drop(rereading(&scene).await);
    }
    let (mut control, _welcome) = rereading(&scene).await;
    drop(guard);
    let Control::Opened { disks } = answer(&mut control).await else { panic!("not opened") };
    assert!(disks.iter().all(|disk| disk.known == Knowledge::Reread), "{disks:?}");
    assert_eq!(scene.targets.opens.load(Ordering::Acquire), 2, "each target once");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_disks_wait_for_those_that_are_being_opened() {
    let mut scene = Scene::small().await;
    let guard = scene.platter(1).hold_writes();
    // Before anything was agreed on, and broken off while the target is being written.
    drop(rereading(&scene).await);
    let (mut control, _welcome) = welcome(&scene).await;
    let others = disks(&scene).into_iter().map(|disk| SourceDisk { size: disk.size - 1, ..disk });
    control.say(&Control::Open { disks: others.collect() }).await;
    assert!(matches!(control.hear().await, Control::Ping), "it waits");
    drop(guard);
    let heard = control.complaint().await;
    assert!(heard.contains("the disk for to-vda was"), "{heard}");
    scene.shut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_ends_does_not_read_its_targets_to_the_end() {
    let mut scene = Scene::small().await;
    drop(opened(&scene).await);
    restart(&mut scene).await;
    let guard = scene.platter(0).hold_reads();
    drop(rereading(&scene).await);
    scene.shut().await;
    drop(guard);
    // No target was left open, and the next one reads all of it.
    scene.serve().await;
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_back_in_pieces() {
    let scene = Scene::small().await;
    let (mut control, _data, _) = zeroed(&scene).await;
    let all: u64 = scene.machine.disks.iter().map(|disk| disk.size.div_ceil(65536)).sum();
    // One piece is of both disks, and the last of what is left.
    for (count, left) in [(40, all - 40), (40, all - 80), (all - 80, 0), (0, 0)] {
        control.say(&Control::Check { everything: false, most: Some(count.max(40)) }).await;
        let Control::Checked { left: found, read, roots, .. } = answer(&mut control).await else {
            unreachable!("it is checked")
        };
        assert_eq!((read, found), (count, left));
        // They take long, and are worth it once nothing is left.
        assert_eq!(roots.len(), if left == 0 { scene.machine.disks.len() } else { 0 });
    }
}
