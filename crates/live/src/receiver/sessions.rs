//! The sessions of one server: the present one, and those of preflights.

use super::session::{Session, replaced};
use crate::trust::{Fingerprint, Hidden};
use carreto_error::{Error, Kind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio_util::sync::CancellationToken;

/// Preflights of one server at a time; the oldest makes room.
const PREVIEWS: usize = 8;

/// Who is connected for one server.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Counts the sessions; held while one makes room for the next.
    count: tokio::sync::Mutex<u64>,
    /// Data connections of each.
    streams: u16,
    /// Never held while something is waited for: every data connection of every server looks here.
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    session: Option<Arc<Session>>,
    /// Of the last one that asked for its turn.
    asked: CancellationToken,
    previews: Vec<Weak<Session>>,
}

impl Sessions {
    /// None yet; each may have `streams` data connections.
    pub(super) fn new(streams: u16) -> Self {
        Self { count: tokio::sync::Mutex::default(), streams, present: Mutex::default() }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session before and begins a new one.
    ///
    /// Cancel safe: whoever comes next ends the session before.
    ///
    /// # Errors
    /// `Unavailable` when a newer connection asks while this one waits.
    pub(super) async fn take_over(&self, peer: Fingerprint) -> Result<Arc<Session>> {
        let asked = CancellationToken::new();
        {
            let mut present = self.present();
            if let Some(before) = &present.session {
                before.cancel.cancel();
            }
            // However often an agent connects, one connection waits for its turn.
            std::mem::replace(&mut present.asked, asked.clone()).cancel();
        }
        let begun = asked.run_until_cancelled(self.succeed(peer)).await;
        begun.unwrap_or_else(|| Err(Error::new(Kind::Unavailable, "a newer connection took over")))
    }

    async fn succeed(&self, peer: Fingerprint) -> Result<Arc<Session>> {
        let mut count = self.count.lock().await;
        let before = self.present().session.clone();
        if let Some(before) = before {
            before.end().await;
        }
        *count += 1;
        let session = Session::new(*count, peer, self.streams)?;
        self.present().session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Ends every session of another key than `peer`, for good.
    pub(super) fn expel_all_but(&self, peer: Fingerprint) {
        let present = self.present();
        let all = present.previews.iter().filter_map(Weak::upgrade).chain(present.session.clone());
        all.filter(|session| session.is_foreign_to(peer))
            .for_each(|session| session.fail(&replaced()));
    }

    /// Begins the session of a preflight, which takes nothing over.
    ///
    /// # Errors
    /// `Internal` without random numbers.
    pub(super) fn preview(&self, peer: Fingerprint) -> Result<Arc<Session>> {
        let session = Session::new(0, peer, self.streams)?;
        let mut present = self.present();
        let is_there = |session: &Arc<Session>| !session.cancel.is_cancelled();
        present.previews.retain(|preview| preview.upgrade().is_some_and(|it| is_there(&it)));
        while present.previews.len() >= PREVIEWS {
            if let Some(oldest) = present.previews.remove(0).upgrade() {
                oldest.cancel.cancel();
            }
        }
        present.previews.push(Arc::downgrade(&session));
        Ok(session)
    }

    /// The session that a data connection of `peer` which shows `ticket` belongs to.
    pub(super) fn with(&self, ticket: &Hidden, peer: Fingerprint) -> Option<Arc<Session>> {
        let present = self.present();
        let previews = present.previews.iter().filter_map(Weak::upgrade);
        previews
            .chain(present.session.clone())
            .find(|it| it.is_open_to(ticket, peer) && !it.cancel.is_cancelled())
    }

    /// Whether an agent is connected; `None` while one session makes room for the next.
    pub(super) fn is_connected(&self) -> Option<bool> {
        let _decided = self.count.try_lock().ok()?;
        let present = self.present();
        Some(present.session.as_ref().is_some_and(|session| !session.cancel.is_cancelled()))
    }

    /// Ends the present session and waits for what it writes. Nobody may take over any more.
    pub(super) async fn end(&self) {
        let session = self.present().session.take();
        if let Some(session) = session {
            session.end().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Fingerprint {
        Fingerprint::of_key(&[7; 32])
    }

    #[test]
    fn the_oldest_preflight_makes_room() {
        let sessions = Sessions::new(3);
        let all: Vec<_> =
            (0..=PREVIEWS).map(|_| sessions.preview(peer()).expect("begun")).collect();
        let ended: Vec<_> = all.iter().map(|session| session.cancel.is_cancelled()).collect();
        assert!(ended[0] && !ended[1..].contains(&true), "{ended:?}");
        drop(all);
        let _last = sessions.preview(peer()).expect("begun");
        assert_eq!(sessions.present().previews.len(), 1, "those that ended are forgotten");
    }

    #[tokio::test]
    async fn one_connection_at_a_time_waits_for_its_turn() {
        let sessions = Arc::new(Sessions::new(3));
        let first = sessions.take_over(peer()).await.expect("begun");
        let writes = first.tasks.token();
        let wait = || {
            let sessions = Arc::clone(&sessions);
            tokio::spawn(async move { sessions.take_over(peer()).await })
        };
        let waits = wait();
        first.cancel.cancelled().await;
        assert_eq!(sessions.is_connected(), None);
        let waits_longer = wait();
        let error = waits.await.expect("an end").expect_err("a newer one is there");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(!waits_longer.is_finished());
        drop(writes);
        let last = waits_longer.await.expect("an end").expect("begun");
        assert_eq!((last.number, sessions.is_connected()), (2, Some(true)));
    }
}
