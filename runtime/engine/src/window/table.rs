//! A table of groups that is being aggregated: which groups are present, and their accumulators.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch};
use hashbrown::HashTable;

use crate::{
    aggregate::{Accumulators, Aggregates},
    group::NO_GROUP,
    operator::OperatorError,
};

/// Groups and what is known of each. Groups are numbered locally in the order in which they came.
pub(crate) struct Table {
    places: Places,
    groups: Vec<u32>,
    accumulators: Accumulators,
}

/// Which local number a group has. A vector by group, except for small tables among very many groups.
enum Places {
    Dense(Vec<u32>),
    Sparse(HashTable<(u32, u32)>),
}

/// Below this many groups in the task, a vector is always small enough.
const DENSE_GROUPS: usize = 32 * 1024;
/// A sparse table becomes dense when it holds more than one in this many groups of the task.
const DENSE_SHARE: usize = 32;

/// Multiplies by an odd constant, which spreads numbers that follow one another over the high bits that the table uses.
fn spread(group: u32) -> u64 {
    u64::from(group).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    /// An empty table among `known` groups. `spare` may hold memory to use again: all [`NO_GROUP`].
    pub(crate) fn new(aggregates: &Aggregates, known: usize, spare: &mut Vec<Vec<u32>>) -> Result<Self, OperatorError> {
        let places = match spare.pop() {
            _ if known > DENSE_GROUPS => Places::Sparse(HashTable::new()),
            Some(places) => Places::Dense(places),
            None => Places::Dense(Vec::new()),
        };
        Ok(Self { places, groups: Vec::new(), accumulators: aggregates.accumulators()? })
    }

    /// A table whose accumulators hold `groups`, in that order, already.
    pub(crate) fn of(groups: Vec<u32>, accumulators: Accumulators, known: usize) -> Self {
        let mut places = vec![NO_GROUP; known];
        for (local, group) in groups.iter().enumerate() {
            places[*group as usize] = local as u32;
        }
        Self { places: Places::Dense(places), groups, accumulators }
    }

    /// How many groups are present.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Takes rows of the given groups, all below `known`. `locals` is scratch.
    pub(crate) fn update(
        &mut self,
        rows: &RecordBatch,
        groups: &[u32],
        known: usize,
        locals: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        self.locate(groups, known, locals);
        self.accumulators.update(rows, locals, self.groups.len())
    }

    /// Takes the states of the given groups, all below `known`.
    pub(crate) fn merge(
        &mut self,
        state: &[ArrayRef],
        groups: &[u32],
        known: usize,
        locals: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        self.locate(groups, known, locals);
        self.accumulators.merge(state, locals, self.groups.len())
    }

    fn locate(&mut self, groups: &[u32], known: usize, locals: &mut Vec<u32>) {
        locals.clear();
        locals.reserve(groups.len());
        if let Places::Sparse(places) = &self.places
            && (self.groups.len() + groups.len()) * DENSE_SHARE > known
        {
            let mut dense = vec![NO_GROUP; known];
            places.iter().for_each(|(group, local)| dense[*group as usize] = *local);
            self.places = Places::Dense(dense);
        }
        let present = &mut self.groups;
        match &mut self.places {
            Places::Dense(places) => {
                if places.len() < known {
                    places.resize(known.next_power_of_two(), NO_GROUP);
                }
                let places = &mut places[..];
                for group in groups {
                    let place = &mut places[*group as usize];
                    if *place == NO_GROUP {
                        *place = present.len() as u32;
                        present.push(*group);
                    }
                    locals.push(*place);
                }
            }
            Places::Sparse(places) => {
                for group in groups {
                    let same = |held: &(u32, u32)| held.0 == *group;
                    let entry = places.entry(spread(*group), same, |held| spread(held.0));
                    let local = entry.or_insert_with(|| {
                        present.push(*group);
                        (*group, present.len() as u32 - 1)
                    });
                    locals.push(local.get().1);
                }
            }
        }
    }

    /// The groups and their states, which become columns when they are first asked for.
    pub(crate) fn into_part(self, spare: &mut Vec<Vec<u32>>) -> Part {
        recycle(self.places, &self.groups, spare);
        Part { groups: self.groups, states: Arc::new(States::of(self.accumulators)) }
    }

    /// The groups and their results.
    pub(crate) fn evaluate(self, spare: &mut Vec<Vec<u32>>) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        recycle(self.places, &self.groups, spare);
        Ok((self.groups, self.accumulators.evaluate()?))
    }

    /// Calls `f` with every group that is present.
    pub(crate) fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Gives the groups their new numbers.
    pub(crate) fn renumber(&mut self, renumbered: &[u32]) {
        for group in &mut self.groups {
            *group = renumbered[*group as usize];
        }
        let mut places = vec![NO_GROUP; renumbered.len()];
        for (local, group) in self.groups.iter().enumerate() {
            places[*group as usize] = local as u32;
        }
        self.places = Places::Dense(places);
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        let places = match &self.places {
            Places::Dense(places) => places.capacity() * 4,
            Places::Sparse(places) => places.allocation_size(),
        };
        places + self.groups.capacity() * 4 + self.accumulators.memory_bytes()
    }
}

/// Clears the memory of a dense map and keeps it for the next table, if it is of a usual size.
fn recycle(places: Places, groups: &[u32], spare: &mut Vec<Vec<u32>>) {
    const SPARE: usize = 8;
    if let Places::Dense(mut places) = places
        && places.len() <= 2 * DENSE_GROUPS
        && spare.len() < SPARE
    {
        groups.iter().for_each(|group| places[*group as usize] = NO_GROUP);
        spare.push(places);
    }
}

/// States of some groups that no longer change.
pub(crate) struct Part {
    /// Each group once.
    pub(crate) groups: Vec<u32>,
    states: Arc<States>,
}

impl Part {
    pub(crate) fn new(groups: Vec<u32>, state: Vec<ArrayRef>) -> Self {
        Self { groups, states: Arc::new(States::from(state)) }
    }

    /// The states of the groups.
    ///
    /// # Errors
    /// Fails if an aggregate cannot give its state.
    pub(crate) fn state(&self) -> Result<&[ArrayRef], OperatorError> {
        self.states.columns()
    }

    /// The same states under new numbers.
    pub(crate) fn renumbered(&self, renumbered: &[u32]) -> Arc<Self> {
        let groups = self.groups.iter().map(|group| renumbered[*group as usize]).collect();
        Arc::new(Self { groups, states: Arc::clone(&self.states) })
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.groups.capacity() * 4 + self.states.memory_bytes()
    }
}

/// States that become columns when they are first asked for, on the thread that asks; another that asks meanwhile waits.
/// So sealing takes no time, and those that only a checkpoint needs are made by its writer. DataFusion's accumulators can
/// take seconds for it.
struct States {
    columns: OnceLock<Columns>,
    /// `None` when they have become columns, or could not.
    accumulators: Mutex<Option<Accumulators>>,
    accumulator_bytes: usize,
}

struct Columns {
    state: Vec<ArrayRef>,
    bytes: usize,
}

impl States {
    fn of(accumulators: Accumulators) -> Self {
        Self {
            columns: OnceLock::new(),
            accumulator_bytes: accumulators.memory_bytes(),
            accumulators: Mutex::new(Some(accumulators)),
        }
    }

    fn columns(&self) -> Result<&[ArrayRef], OperatorError> {
        if let Some(columns) = self.columns.get() {
            return Ok(&columns.state);
        }
        let mut accumulators = self.accumulators.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(accumulators) = accumulators.take() {
            let _ = self.columns.set(Columns::from(accumulators.into_state()?));
        }
        let columns = self.columns.get().ok_or_else(|| OperatorError::Damaged {
            found: "states that could not be turned into columns before".into(),
            expected: "the states of a part",
        })?;
        Ok(&columns.state)
    }

    fn memory_bytes(&self) -> usize {
        self.columns.get().map_or(self.accumulator_bytes, |columns| columns.bytes)
    }
}

impl From<Vec<ArrayRef>> for States {
    fn from(state: Vec<ArrayRef>) -> Self {
        Self { columns: OnceLock::from(Columns::from(state)), accumulators: Mutex::default(), accumulator_bytes: 0 }
    }
}

impl From<Vec<ArrayRef>> for Columns {
    fn from(state: Vec<ArrayRef>) -> Self {
        Self { bytes: state.iter().map(|column| column.get_array_memory_size()).sum(), state }
    }
}
