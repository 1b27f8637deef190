//! Agents that take more than is theirs: connections, time, and disks that are complete.

use crate::rogue::{Line, batch, introduced, zeros};
use crate::scene::{Scene, noise};
use carreto_live::certificate::{Audits, Certificate, Disk, Mode, Role, Root, Statement};
use carreto_live::trust::{Identity, JoinToken};
use carreto_live::wire::{Control, Welcome, kind};

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
