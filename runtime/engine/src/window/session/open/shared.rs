//! A vector of which a snapshot takes no time.
//!
//! It lies in segments of [`SEGMENT`] values. A snapshot shares them; one that is written to while a snapshot has it is
//! copied then. So what a barrier would have to copy at once is copied bit by bit, and only where it changes.

use std::{
    ops::{Index, IndexMut},
    sync::Arc,
};

const BITS: u32 = 12;
const SEGMENT: usize = 1 << BITS;
const MASK: usize = SEGMENT - 1;

/// Values by index.
pub(super) struct Shared<T> {
    segments: Vec<Segment<T>>,
}

enum Segment<T> {
    Own(Vec<T>),
    Lent(Arc<Vec<T>>),
}

/// The values as they were when it was taken.
pub(super) struct Snapshot<T> {
    segments: Vec<Arc<Vec<T>>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { segments: Vec::new() }
    }
}

impl<T> Segment<T> {
    fn values(&self) -> &[T] {
        match self {
            Self::Own(values) => values,
            Self::Lent(values) => values,
        }
    }
}

impl<T: Clone> Segment<T> {
    fn values_mut(&mut self) -> &mut Vec<T> {
        if let Self::Lent(values) = self {
            let values = std::mem::take(values);
            *self = Self::Own(Arc::try_unwrap(values).unwrap_or_else(|lent| (*lent).clone()));
        }
        match self {
            Self::Own(values) => values,
            Self::Lent(_) => unreachable!("made its own above"),
        }
    }
}

impl<T: Clone> Shared<T> {
    pub(super) fn len(&self) -> usize {
        let before = self.segments.len().saturating_sub(1) * SEGMENT;
        before + self.segments.last().map_or(0, |segment| segment.values().len())
    }

    pub(super) fn push(&mut self, value: T) {
        if self.len() & MASK == 0 {
            self.segments.push(Segment::Own(Vec::new()));
        }
        if let Some(last) = self.segments.last_mut() {
            last.values_mut().push(value);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flat_map(Segment::values)
    }

    /// Every value, to be written to; copies what a snapshot has.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.segments.iter_mut().flat_map(Segment::values_mut)
    }

    /// The values as they are now.
    pub(super) fn snapshot(&mut self) -> Snapshot<T> {
        let lend = |segment: &mut Segment<T>| match segment {
            Segment::Lent(values) => Arc::clone(values),
            Segment::Own(values) => {
                let values = Arc::new(std::mem::take(values));
                *segment = Segment::Lent(Arc::clone(&values));
                values
            }
        };
        Snapshot { segments: self.segments.iter_mut().map(lend).collect() }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.segments.len() * SEGMENT.min(self.len()) * size_of::<T>()
    }
}

impl<T> Index<usize> for Shared<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.segments[index >> BITS].values()[index & MASK]
    }
}

impl<T: Clone> IndexMut<usize> for Shared<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.segments[index >> BITS].values_mut()[index & MASK]
    }
}

impl<T> Snapshot<T> {
    pub(super) fn len(&self) -> usize {
        let before = self.segments.len().saturating_sub(1) * SEGMENT;
        before + self.segments.last().map_or(0, |segment| segment.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flat_map(|segment| segment.iter())
    }
}

impl<T> Index<usize> for Snapshot<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.segments[index >> BITS][index & MASK]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_snapshot_keeps_what_was_there_and_the_vector_what_is(
            before in 0..3 * SEGMENT,
            writes in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..40),
        ) {
            let mut shared = Shared::default();
            let mut model: Vec<usize> = Vec::new();
            let mut taken: Vec<(Snapshot<usize>, Vec<usize>)> = Vec::new();
            for value in 0..before {
                shared.push(value);
                model.push(value);
            }
            for (number, (at, snapshot)) in writes.into_iter().enumerate() {
                if snapshot {
                    taken.push((shared.snapshot(), model.clone()));
                }
                if number % 7 == 3 {
                    taken.clear();
                }
                if model.is_empty() || number % 5 == 0 {
                    shared.push(number);
                    model.push(number);
                } else {
                    let at = at.index(model.len());
                    shared[at] = 1_000_000 + number;
                    model[at] = 1_000_000 + number;
                }
                prop_assert_eq!(shared.len(), model.len());
            }
            prop_assert!(shared.iter().eq(&model));
            prop_assert!((0..model.len()).all(|at| shared[at] == model[at]));
            for (snapshot, model) in &taken {
                prop_assert_eq!(snapshot.len(), model.len());
                prop_assert!(snapshot.iter().eq(model));
                prop_assert!((0..model.len()).all(|at| snapshot[at] == model[at]));
            }
        }
    }
}
