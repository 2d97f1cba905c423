//! The open sessions of each group, found by time.
//!
//! A few are a list, through the sessions themselves. More than [`MANY`] are a tree by their starts: the open sessions of a
//! group lie so far apart that none reaches another, so what a row or a span reaches is the session that starts before it,
//! or the first that starts behind. What a row costs grows with the logarithm of their number.

use std::collections::{BTreeSet, HashMap};

use super::{NONE, Session, Span, shared::Shared};
use crate::group::NO_GROUP;

/// Stands for the first session of a group whose sessions are a tree.
const TREE: u32 = NONE - 1;
/// From how many on they are one; a test has others, to come by both often.
const MANY: usize = if cfg!(test) { 4 } else { 32 };
/// With how few they are a list again.
const FEW: usize = MANY / 4;

/// The open sessions of each group.
#[derive(Default)]
pub(super) struct Lists {
    /// The first open session of each group.
    first: Vec<u32>,
    /// The sessions of groups that have many, by their starts.
    trees: HashMap<u32, BTreeSet<(i64, u32)>>,
    /// How many sessions are in trees.
    in_trees: usize,
}

impl Lists {
    /// There are so many groups.
    pub(super) fn grow(&mut self, groups: usize) {
        self.first.resize(groups, NONE);
    }

    /// The first session of a group whose sessions are a list.
    #[inline]
    pub(super) fn first(&self, group: u32) -> Option<u32> {
        Some(self.first[group as usize]).filter(|first| *first < TREE)
    }

    /// Which groups have sessions.
    pub(super) fn live(&self) -> Vec<bool> {
        self.first.iter().map(|first| *first != NONE).collect()
    }

    /// The session of a group that a row belongs to which does not come before it.
    pub(super) fn containing(&mut self, sessions: &Shared<Session>, group: u32, time: i64) -> u32 {
        let is_it = |session: &Session| session.start <= time && time - session.last < session.gap_ms;
        match self.trees.get(&group) {
            None => self.in_list(sessions, group, NONE, is_it),
            Some(tree) => {
                let before = tree.range(..=(time, NONE)).next_back();
                before.map(|(_, at)| *at).filter(|at| is_it(&sessions[*at as usize])).unwrap_or(NONE)
            }
        }
    }

    /// A session of a group, other `than` this one, that a span reaches.
    pub(super) fn reached(&mut self, sessions: &Shared<Session>, group: u32, span: &Span, than: u32) -> u32 {
        let is_it = |session: &Session| span.reaches(&session.span());
        match self.trees.get(&group) {
            None => self.in_list(sessions, group, than, is_it),
            Some(tree) => {
                let is_other = |(_, at): &&(i64, u32)| *at != than;
                let before = tree.range(..=(span.start, NONE)).rev().find(is_other);
                let behind = tree.range((span.start, NONE)..).find(is_other);
                let mut reached = before.into_iter().chain(behind).map(|(_, at)| *at);
                reached.find(|at| is_it(&sessions[*at as usize])).unwrap_or(NONE)
            }
        }
    }

    fn in_list(&mut self, sessions: &Shared<Session>, group: u32, than: u32, is_it: impl Fn(&Session) -> bool) -> u32 {
        let (mut at, mut passed) = (self.first[group as usize], 0);
        while at != NONE && (at == than || !is_it(&sessions[at as usize])) {
            at = sessions[at as usize].next;
            passed += 1;
        }
        if passed > MANY {
            self.plant(sessions, group);
        }
        at
    }

    /// Makes a tree of a list.
    fn plant(&mut self, sessions: &Shared<Session>, group: u32) {
        let mut tree = BTreeSet::new();
        let mut at = std::mem::replace(&mut self.first[group as usize], TREE);
        while at != NONE {
            let session = &sessions[at as usize];
            tree.insert((session.start, at));
            at = session.next;
        }
        self.in_trees += tree.len();
        self.trees.insert(group, tree);
    }

    /// A session is there: what comes after it in a list is noted in it.
    pub(super) fn add(&mut self, sessions: &mut Shared<Session>, group: u32, at: u32) {
        match self.trees.get_mut(&group) {
            None => sessions[at as usize].next = std::mem::replace(&mut self.first[group as usize], at),
            Some(tree) => {
                tree.insert((sessions[at as usize].start, at));
                self.in_trees += 1;
            }
        }
    }

    /// A session is not there any more; its start is as it was.
    pub(super) fn remove(&mut self, sessions: &mut Shared<Session>, group: u32, at: u32) {
        let Some(tree) = self.trees.get_mut(&group) else { return self.unlink(sessions, group, at) };
        tree.remove(&(sessions[at as usize].start, at));
        self.in_trees -= 1;
        if tree.len() > FEW {
            return;
        }
        let mut first = NONE;
        for (_, at) in tree.iter() {
            sessions[*at as usize].next = std::mem::replace(&mut first, *at);
        }
        self.first[group as usize] = first;
        self.in_trees -= tree.len();
        self.trees.remove(&group);
    }

    fn unlink(&mut self, sessions: &mut Shared<Session>, group: u32, session: u32) {
        let next = std::mem::replace(&mut sessions[session as usize].next, NONE);
        let (mut at, mut passed) = (self.first[group as usize], 0);
        if at == session {
            self.first[group as usize] = next;
            return;
        }
        while at != NONE && sessions[at as usize].next != session {
            at = sessions[at as usize].next;
            passed += 1;
        }
        if at != NONE {
            sessions[at as usize].next = next;
        }
        if passed > MANY {
            self.plant(sessions, group);
        }
    }

    /// A session that started then starts as it says now.
    pub(super) fn started(&mut self, sessions: &Shared<Session>, group: u32, at: u32, before: i64) {
        let start = sessions[at as usize].start;
        if start != before
            && let Some(tree) = self.trees.get_mut(&group)
        {
            tree.remove(&(before, at));
            tree.insert((start, at));
        }
    }

    /// The groups have other numbers, of which there are so many.
    pub(super) fn renumber(&mut self, renumbered: &[u32], groups: usize) {
        let mut first = vec![NONE; groups];
        for (old, new) in renumbered.iter().enumerate().filter(|(_, new)| **new != NO_GROUP) {
            first[*new as usize] = self.first[old];
        }
        self.first = first;
        let trees = std::mem::take(&mut self.trees);
        self.trees = trees.into_iter().map(|(group, tree)| (renumbered[group as usize], tree)).collect();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // Nodes of a tree are two thirds full.
        self.first.capacity() * 4 + self.in_trees * size_of::<(i64, u32)>() * 3 / 2
    }
}
