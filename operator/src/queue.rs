//! What is to be reconciled, and when.
//!
//! An object is in the queue once, at the earliest time that anybody asked for, and is worked on by one at a time: what comes
//! in meanwhile is due as soon as that is done. While an object is held back after an error, events bring it forward only
//! to a second after the error, so that an error that makes events of its own is no hot loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::cluster::key::Key;

/// The least time between an error and the next try.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Asks for objects to be reconciled, from any task.
#[derive(Clone)]
pub struct Trigger(mpsc::Sender<Vec<Key>>);

impl Trigger {
    /// A trigger, and where its keys come out.
    pub fn new() -> (Self, mpsc::Receiver<Vec<Key>>) {
        let (sender, receiver) = mpsc::channel(1_024);
        (Self(sender), receiver)
    }

    /// Asks for these. Waits while too many are on their way; cancel-safe, none of them is asked for then.
    pub async fn send(&self, keys: Vec<Key>) {
        if !keys.is_empty() {
            // Nobody listens any more when the operator ends.
            let _ = self.0.send(keys).await;
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<Key, Entry>,
    due: BTreeSet<(Duration, Key)>,
}

#[derive(Debug, Default)]
struct Entry {
    due: Option<Duration>,
    is_running: bool,
    not_before: Duration,
}

impl Queue {
    /// Asks for an object at a time, unless it is due earlier.
    pub fn add(&mut self, key: Key, at: Duration) {
        let entry = self.entries.entry(key.clone()).or_default();
        let at = at.max(entry.not_before);
        if entry.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = entry.due.replace(at) {
            self.due.remove(&(due, key.clone()));
        }
        if !entry.is_running {
            self.due.insert((at, key));
        }
    }

    /// Takes the object that is due first, if one is.
    pub fn take(&mut self, now: Duration) -> Option<Key> {
        let (at, key) = self.due.first().filter(|(at, _)| *at <= now)?.clone();
        self.due.remove(&(at, key.clone()));
        let entry = self.entries.get_mut(&key)?;
        entry.due = None;
        entry.is_running = true;
        Some(key)
    }

    /// An object has been reconciled at a time: is to be again, after this delay; after an error it is held back till then.
    pub fn done(&mut self, key: Key, now: Duration, again: Option<Duration>, failed: bool) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.is_running = false;
        entry.not_before = if failed { now + AFTER_ERROR } else { Duration::ZERO };
        let asked = entry.due.take().map(|due| due.max(entry.not_before));
        match asked.into_iter().chain(again.map(|again| now + again)).min() {
            Some(at) => {
                entry.due = Some(at);
                self.due.insert((at, key));
            }
            None if !failed => {
                self.entries.remove(&key);
            }
            None => {}
        }
    }

    /// When the next object is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How many objects are due by now and wait to be worked on.
    pub fn waiting(&self, now: Duration) -> usize {
        self.due.iter().take_while(|(at, _)| *at <= now).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::key::Kind;

    fn key(name: &str) -> Key {
        Key::new(Kind::Pipeline, "default", name)
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_object_is_in_the_queue_once_at_the_earliest_time() {
        let mut queue = Queue::default();
        queue.add(key("a"), at(50));
        queue.add(key("a"), at(10));
        queue.add(key("a"), at(90));
        assert_eq!(queue.take(at(9)), None);
        assert_eq!(queue.take(at(10)), Some(key("a")));
        assert_eq!(queue.take(at(100)), None);
    }

    #[test]
    fn an_object_that_is_worked_on_is_not_given_out_again_until_it_is_done() {
        let mut queue = Queue::default();
        queue.add(key("a"), at(0));
        assert_eq!(queue.take(at(0)), Some(key("a")));
        queue.add(key("a"), at(1));
        assert_eq!(queue.take(at(5)), None);
        queue.done(key("a"), at(6), Some(at(1_000)), false);
        assert_eq!(queue.take(at(6)), Some(key("a")));
        queue.done(key("a"), at(7), None, false);
        assert_eq!((queue.next_due(), queue.entries.len()), (None, 0));
    }

    #[test]
    fn after_an_error_an_event_waits_a_second() {
        let mut queue = Queue::default();
        queue.add(key("a"), at(0));
        queue.take(at(0));
        queue.done(key("a"), at(0), Some(at(60_000)), true);
        queue.add(key("a"), at(10));
        assert_eq!((queue.take(at(999)), queue.next_due()), (None, Some(at(1_000))));
        assert_eq!(queue.take(at(1_000)), Some(key("a")));
    }

    #[test]
    fn events_during_a_failing_reconcile_do_not_jump_the_wait() {
        let mut queue = Queue::default();
        queue.add(key("a"), at(0));
        queue.take(at(0));
        queue.add(key("a"), at(1));
        queue.done(key("a"), at(2), Some(at(60_000)), true);
        assert_eq!(queue.next_due(), Some(at(1_002)));
    }
}
