//! Who and what is not let in.

use crate::machine::FakeMachine;
use crate::rogue::{greet, welcome};
use crate::scene::{MIB, Scene, mixed};
use crate::target::Platter;
use carreto_error::Kind;
use carreto_live::agent::Agent;
use carreto_live::trust::{JoinToken, Secret};
use carreto_live::wire::Control;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_key() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    let folder = scene.folder.path();
    let config = carreto_live::agent::AgentConfig::parse(&format!(
        "token = '{}'\nstate = '{}'\nrun = '{}'\n",
        scene.token,
        folder.join("other").display(),
        folder.join("other/run").display()
    ))
    .unwrap();
    std::fs::create_dir_all(folder.join("other")).unwrap();
    let machine = FakeMachine::new(vec![("vda", vec![1; 2 * MIB])]);
    let other = Agent::open(config, machine, scene.ears.clone()).unwrap();
    let run = async { other.run(CancellationToken::new()).await };
    let error = run.await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.remedy().contains("new join token"), "{}", error.remedy());
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_opens_nothing() {
    let mut scene = Scene::small().await;
    let token: JoinToken = scene.token.parse().unwrap();
    scene.token = JoinToken { secret: Secret::random().unwrap(), ..token }.to_string();
    let error = scene.start().end().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(!scene.receiver().status().servers[0].joined);
    assert!(!scene.platter(0).has_blank_head(), "untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_small_is_named_and_may_be_exchanged() {
    let mut scene = Scene::small().await;
    let good = scene.platter(1);
    let small = Platter::new(vec![3; MIB]);
    scene.targets.platters.lock().unwrap().insert("to-vdb".to_owned(), small);
    // The first disk was open when the second one was refused, and is not kept from the next try.
    for _ in 0..2 {
        let error = scene.start().end().await.unwrap_err();
        assert_eq!((error.kind(), error.remedy()), (Kind::TargetTooSmall, "attach a larger disk"));
        assert!(error.to_string().contains("to-vdb"), "{error}");
    }
    scene.shut().await;
    scene.targets.platters.lock().unwrap().insert("to-vdb".to_owned(), Arc::clone(&good));
    scene.serve().await;
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_be_written_says_so() {
    let scene = Scene::new(vec![("vda", mixed(4, 20 * MIB))], 0).await;
    scene.platter(0).fail_write.store(true, Ordering::Release);
    let error = scene.start().end().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    assert!(error.to_string().contains("the target is full"), "{error}");
    scene.platter(0).fail_write.store(false, Ordering::Release);
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_is_replaced_and_nothing_is_sent_again() {
    let mut scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    agent.stop().await;
    std::fs::remove_file(scene.folder.path().join("agent/agent.key")).unwrap();
    let error = scene.start().end().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.remedy().contains("--new-token NAME"), "{}", error.remedy());
    scene.shut().await;
    scene.serve().await;
    assert!(scene.receiver().invite(true).unwrap().is_empty(), "it has joined");
    scene.token = scene.receiver().invite_again("web1").unwrap().token.to_string();
    for disk in 0..2 {
        scene.platter(disk).take_written();
    }
    let agent = scene.start();
    scene.following().await;
    for disk in 0..2 {
        assert_eq!(scene.platter(disk).take_written(), 0, "disk {disk}: it has everything");
    }
    scene.cut_over(false).await;
    scene.finish(agent).await;
    let error = scene.receiver().invite_again("web1").unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("is committed"), "{error}");
    assert_eq!(scene.receiver().invite_again("web9").unwrap_err().kind(), Kind::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_that_was_replaced_is_out() {
    let mut scene = Scene::small().await;
    let (mut old, _welcome) = welcome(&scene).await;
    let first = scene.token.clone();
    scene.token = scene.receiver().invite_again("web1").unwrap().token.to_string();
    // Until another one comes, the old one is good.
    old.say(&Control::Ping).await;
    assert!(matches!(old.hear().await, Control::Ping));
    let (_new, heard) = greet(&scene, "other").await;
    assert!(matches!(heard, Control::Welcome(_)), "{heard:?}");
    assert!(old.complaint().await.contains("took over"));
    for token in [scene.token.clone(), first] {
        scene.token = token;
        let (_line, heard) = greet(&scene, "agent").await;
        let Control::Failed(failed) = heard else { panic!("{heard:?}") };
        assert_eq!(
            (failed.kind.as_str(), failed.retry.as_deref()),
            ("denied", Some("after_remedy"))
        );
    }
    assert!(scene.receiver().status().servers[0].joined);
    // And so it stays.
    scene.shut().await;
    scene.serve().await;
    let (_line, heard) = greet(&scene, "agent").await;
    assert!(matches!(heard, Control::Failed(_)), "{heard:?}");
    let (_line, heard) = greet(&scene, "other").await;
    assert!(matches!(heard, Control::Welcome(_)), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_used_up_by_the_key_that_is_in_already() {
    let mut scene = Scene::small().await;
    drop(welcome(&scene).await);
    scene.token = scene.receiver().invite_again("web1").unwrap().token.to_string();
    drop(welcome(&scene).await);
    let (_line, heard) = greet(&scene, "other").await;
    assert!(matches!(heard, Control::Failed(_)), "{heard:?}");
    drop(welcome(&scene).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_cannot_be_used_are_told_of_at_the_start() {
    let scene = Scene::small().await;
    scene.receiver().survey().await;
    assert!(!scene.ears.heard("Unfit"));
    *scene.targets.refusal.lock().unwrap() = Some((Kind::TargetUnusable, "it is mounted"));
    scene.receiver().survey().await;
    assert_eq!(scene.ears.count("Unfit { server: \"web1\", disk: \"vd"), 2);
    assert!(scene.ears.heard("it is mounted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_little_space_is_told_of_once() {
    let scene = Scene::small().await;
    *scene.targets.free.lock().unwrap() = Some(2 * MIB as u64 + 100);
    for _ in 0..2 {
        let agent = scene.start();
        scene.following().await;
        agent.stop().await;
        assert_eq!(scene.ears.count("Unfit"), 1, "{:#?}", scene.ears.told.lock().unwrap());
    }
    assert!(scene.ears.heard("can take 2097252 bytes, the disk has 3146240"));
}
