//! The watchdog against an agent that dies, hangs and lies; file systems are booleans.

use super::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

/// A file system that is frozen or not, and the order in which such were thawed.
#[derive(Default)]
struct Fake {
    frozen: AtomicBool,
    turn: AtomicU32,
}

struct Handle(Arc<Fake>, Arc<AtomicU32>);

impl Thaw for Handle {
    fn thaw(&self) -> Result<(), Errno> {
        if !self.0.frozen.swap(false, Ordering::SeqCst) {
            return Err(Errno::INVAL);
        }
        self.0.turn.store(self.1.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Ok(())
    }
}

struct Scene {
    channel: OwnedFd,
    systems: Vec<Arc<Fake>>,
    watchdog: JoinHandle<Result<()>>,
}

impl Scene {
    /// A watchdog with `count` file systems.
    fn new(count: usize) -> Self {
        let (channel, theirs) = channel::pair().unwrap();
        let systems: Vec<_> = (0..count).map(|_| Arc::new(Fake::default())).collect();
        let turns = Arc::new(AtomicU32::new(0));
        let handles: VecDeque<_> =
            systems.iter().map(|fake| Handle(Arc::clone(fake), Arc::clone(&turns))).collect();
        let handles = Mutex::new(handles);
        let watchdog = std::thread::spawn(move || {
            serve(theirs, |_| handles.lock().unwrap().pop_front().unwrap())
        });
        let scene = Self { channel, systems, watchdog };
        let null = std::fs::File::open("/dev/null").unwrap();
        for index in 0..count {
            let question = Question::System(format!("/mnt/{index}"));
            channel::send(&scene.channel, &question.encode(), Some(null.as_fd())).unwrap();
            assert_eq!(scene.hear(), Answer::Held);
        }
        scene
    }

    fn hear(&self) -> Answer {
        assert!(channel::wait(&self.channel, None).unwrap());
        Answer::decode(&channel::receive(&self.channel).unwrap().0).unwrap()
    }

    fn ask(&self, question: &Question) -> Answer {
        channel::send(&self.channel, &question.encode(), None).unwrap();
        self.hear()
    }

    fn freeze_all(&self, lease: Duration) {
        assert_eq!(self.ask(&Question::Begin(lease)), Answer::Held);
        for index in 0..self.systems.len() {
            let number = u32::try_from(index).unwrap();
            assert_eq!(self.ask(&Question::Freezing(number)), Answer::Held);
            self.systems[index].frozen.store(true, Ordering::SeqCst);
            assert_eq!(self.ask(&Question::Settled(number, true)), Answer::Held);
        }
    }

    fn frozen(&self) -> Vec<bool> {
        self.systems.iter().map(|system| system.frozen.load(Ordering::SeqCst)).collect()
    }

    /// Closes the channel and waits for the watchdog's end.
    fn close(self) -> Vec<u32> {
        drop(self.channel);
        self.watchdog.join().unwrap().unwrap();
        self.systems.iter().map(|system| system.turn.load(Ordering::SeqCst)).collect()
    }
}

const LONG: Duration = Duration::from_secs(100);
/// Long enough for a busy machine to freeze within it.
const SHORT: Duration = Duration::from_millis(600);

#[test]
fn the_end_of_the_agent_thaws_in_reverse() {
    let scene = Scene::new(3);
    scene.freeze_all(LONG);
    assert_eq!(scene.close(), [3, 2, 1]);
}

#[test]
fn the_end_of_the_lease_thaws_and_is_told() {
    let scene = Scene::new(2);
    scene.freeze_all(SHORT);
    std::thread::sleep(2 * SHORT);
    assert_eq!(scene.frozen(), [false, false]);
    for question in [Question::Renew, Question::Freezing(0), Question::Release] {
        assert!(matches!(scene.ask(&question), Answer::Lost(why) if why.contains("ran out")));
    }
    assert_eq!(scene.close(), [2, 1]);
}

#[test]
fn renewals_keep_it() {
    let scene = Scene::new(1);
    scene.freeze_all(3 * SHORT);
    for _ in 0..5 {
        std::thread::sleep(SHORT);
        assert_eq!(scene.ask(&Question::Renew), Answer::Held);
    }
    assert_eq!(scene.frozen(), [true]);
    assert_eq!(scene.ask(&Question::Thaw), Answer::Thawed);
    assert_eq!(scene.frozen(), [false]);
    scene.close();
}

#[test]
fn what_was_released_stays_frozen() {
    let scene = Scene::new(2);
    scene.freeze_all(SHORT);
    assert_eq!(scene.ask(&Question::Release), Answer::Held);
    std::thread::sleep(2 * SHORT);
    assert_eq!(scene.frozen(), [true, true]);
    assert_eq!(scene.close(), [0, 0]);
}

#[test]
fn a_thaw_by_somebody_else_is_told() {
    let scene = Scene::new(2);
    scene.freeze_all(LONG);
    scene.systems[1].frozen.store(false, Ordering::SeqCst);
    assert!(matches!(scene.ask(&Question::Thaw), Answer::Lost(why) if why.contains("/mnt/1")));
    assert_eq!(scene.close(), [1, 0]);
}

/// The agent hangs inside the call that freezes, which ends after the lease.
#[test]
fn what_becomes_frozen_after_the_lease_is_thawed_too() {
    let scene = Scene::new(2);
    assert_eq!(scene.ask(&Question::Begin(SHORT)), Answer::Held);
    assert_eq!(scene.ask(&Question::Freezing(0)), Answer::Held);
    std::thread::sleep(2 * SHORT);
    scene.systems[0].frozen.store(true, Ordering::SeqCst);
    while scene.frozen() != [false, false] {
        std::thread::sleep(RETRY);
    }
    assert!(matches!(scene.ask(&Question::Settled(0, true)), Answer::Lost(_)));
    assert!(matches!(scene.ask(&Question::Freezing(1)), Answer::Lost(_)));
    scene.close();
}

/// What was announced and then refused, because somebody else froze it, is not thawed.
#[test]
fn what_others_froze_stays_frozen() {
    let scene = Scene::new(2);
    assert_eq!(scene.ask(&Question::Begin(LONG)), Answer::Held);
    scene.systems[0].frozen.store(true, Ordering::SeqCst);
    assert_eq!(scene.ask(&Question::Freezing(0)), Answer::Held);
    assert_eq!(scene.ask(&Question::Settled(0, false)), Answer::Held);
    assert_eq!(scene.close(), [0, 0]);
}

#[test]
fn an_agent_that_lies_is_refused() {
    let scene = Scene::new(1);
    assert!(matches!(scene.ask(&Question::Freezing(0)), Answer::Lost(_)), "no lease yet");
    assert_eq!(scene.ask(&Question::Begin(LONG)), Answer::Held);
    assert!(matches!(scene.ask(&Question::Freezing(9)), Answer::Lost(_)));
    assert!(matches!(scene.ask(&Question::System("no file".to_owned())), Answer::Lost(_)));
    channel::send(&scene.channel, b"rubbish", None).unwrap();
    assert!(matches!(scene.hear(), Answer::Lost(_)));
    scene.close();
    assert_eq!(
        watchdog_main(std::fs::File::open("/dev/null").unwrap()).unwrap_err().kind(),
        Kind::Usage
    );
}
