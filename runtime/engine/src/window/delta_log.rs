//! Keyed entries in the store as columns: what changed in an epoch is one chunk a key group.
//!
//! An entry a key costs a name, a place in the order and a put for each key that changed. Here a barrier writes the entries
//! that changed as one *part*: a chunk of columns a key group ([`chunks`]), whose rows stand in the place of those that
//! earlier parts have of the same entries. Parts that are mostly of no use any more are replaced by a *base*, which has
//! every entry, so that the store holds about three times the rows that are in use at most, and what a change costs is
//! written about twice. All entries are in memory meanwhile: parts are only read at a start, newest first. An operator
//! whose entries do not fit its memory keeps them in another form ([`crate::stored_keys`]) and has no parts.
//!
//! ```text
//! key    as of a part of a slice, with the version of the columns in the slice's place
//! value  a chunk: key columns, then the operator's
//! ```

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field},
};
use millrace_state::{StateError, TaskStore};

use super::{
    chunks::{self, Content, Kind, Layout, PartWrite, Stored},
    table::Part,
};
use crate::{group::GroupKeys, operator::OperatorError};

/// The version of the columns.
const VERSION: i64 = 1;
/// So many rows of no use are never worth a base.
const FEW: usize = 1024;

/// The parts that the store has.
pub(crate) struct DeltaLog {
    layout: Layout,
    /// By number, those that were there at the start, and the key groups in which they have rows.
    found: BTreeMap<u64, u128>,
    written: Vec<Stored>,
    rows: usize,
}

impl DeltaLog {
    /// A log without parts, of these columns behind those of the keys.
    pub(crate) fn new(state: &'static str, keys: &[DataType], columns: Vec<Field>) -> Self {
        Self { layout: Layout::new(state, keys, columns), found: BTreeMap::new(), written: Vec::new(), rows: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.written.is_empty()
    }

    /// Whether a base had better be written than the `changed` rows alone, where it would have `live` rows.
    pub(crate) fn wants_base(&self, changed: usize, live: usize) -> bool {
        changed >= live || self.rows + changed > 2 * live + FEW
    }

    /// Writes a part, in the place of all others if it is a base; answers how many bytes it has.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub(crate) fn write(
        &mut self,
        store: &TaskStore,
        keys: &GroupKeys,
        part: Part,
        stored: Stored,
        is_base: bool,
    ) -> Result<u64, StateError> {
        let deletes = if is_base { self.take_parts() } else { Vec::new() };
        let rows = part.groups.len();
        let put = |content| PartWrite { kind: Kind::Part, slice: VERSION, stored: stored.clone(), content };
        let puts = if rows == 0 { Vec::new() } else { vec![put(Content::States(Arc::new(part)))] };
        let bytes = chunks::write(store, &self.layout, keys, puts, &deletes)?;
        if rows > 0 {
            self.written.push(stored);
            self.rows += rows;
        }
        Ok(bytes)
    }

    /// Deletes every part.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub(crate) fn clear(&mut self, store: &TaskStore) -> Result<(), StateError> {
        let deletes = self.take_parts();
        if !deletes.is_empty() {
            let keys = GroupKeys::new(&[]).map_err(chunks::unstorable)?;
            chunks::write(store, &self.layout, &keys, Vec::new(), &deletes)?;
        }
        Ok(())
    }

    fn take_parts(&mut self) -> Vec<(Kind, i64, Stored)> {
        self.rows = 0;
        let found = std::mem::take(&mut self.found).into_iter();
        let found = found.map(|(part, key_groups)| Stored { part, key_groups: Arc::new(key_groups.into()) });
        found.chain(self.written.drain(..)).map(|stored| (Kind::Part, VERSION, stored)).collect()
    }

    /// The rows that a key group has in each part, newest first: of the rows of an entry the first one counts.
    ///
    /// # Errors
    /// Fails if they cannot be read.
    pub(crate) fn load(&mut self, store: &TaskStore, key_group: u16) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut parts: Vec<(u64, RecordBatch)> = Vec::new();
        let mut other = None;
        let layout = self.layout.clone();
        layout.scan(
            store,
            key_group,
            Kind::Part,
            (i64::MIN, None),
            |version, _| {
                other = other.or((version != VERSION).then_some(version));
                version == VERSION
            },
            |_, part, rows| {
                parts.push((part, rows));
                Ok(())
            },
        )?;
        if let Some(version) = other {
            let found = format!("columns of version {version}");
            return Err(OperatorError::Damaged { found, expected: "columns of version 1" });
        }
        parts.sort_by_key(|(part, _)| std::cmp::Reverse(*part));
        for (part, rows) in &parts {
            *self.found.entry(*part).or_default() |= 1 << key_group;
            self.rows += rows.num_rows();
        }
        Ok(parts.into_iter().map(|(_, rows)| rows).collect())
    }
}
