//! One column of an accumulator: a value a group, and which groups have one.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, BooleanBufferBuilder, PrimitiveArray, make_array},
    buffer::{BooleanBuffer, NullBuffer, ScalarBuffer},
    datatypes::{ArrowNativeType, DataType},
};

/// Values by group. While no null and no filter has been seen, every group there is has a value, and `seen` is not kept.
pub(super) struct Fold<T> {
    values: Vec<T>,
    seen: Option<BooleanBufferBuilder>,
    /// What a group begins with.
    unit: T,
}

impl<T: ArrowNativeType> Fold<T> {
    pub(super) fn new(unit: T) -> Self {
        Self { values: Vec::new(), seen: None, unit }
    }

    /// Folds `values[i]` into group `locals[i]`; where `counts` is given, only rows for which it is true.
    #[inline]
    pub(super) fn fold(
        &mut self,
        values: &[T],
        counts: Option<&BooleanBuffer>,
        locals: &[u32],
        groups: usize,
        mut step: impl FnMut(T, T) -> T,
    ) {
        if counts.is_some() && self.seen.is_none() {
            self.keep_seen();
        }
        self.values.resize(groups.max(self.values.len()), self.unit);
        let held = &mut self.values[..];
        match (counts, &mut self.seen) {
            (None, None) => {
                for (value, local) in values.iter().zip(locals) {
                    let slot = &mut held[*local as usize];
                    *slot = step(*slot, *value);
                }
            }
            (None, Some(seen)) => {
                seen.resize(held.len());
                for (value, local) in values.iter().zip(locals) {
                    let slot = &mut held[*local as usize];
                    *slot = step(*slot, *value);
                    seen.set_bit(*local as usize, true);
                }
            }
            (Some(counts), Some(seen)) => {
                seen.resize(held.len());
                for row in counts.set_indices() {
                    let local = locals[row] as usize;
                    held[local] = step(held[local], values[row]);
                    seen.set_bit(local, true);
                }
            }
            (Some(_), None) => {}
        }
    }

    fn keep_seen(&mut self) {
        let mut seen = BooleanBufferBuilder::new(self.values.len());
        seen.append_n(self.values.len(), true);
        self.seen = Some(seen);
    }

    /// Makes room for groups that have no value.
    pub(super) fn grow_unseen(&mut self, groups: usize) {
        if groups <= self.values.len() {
            return;
        }
        if self.seen.is_none() {
            self.keep_seen();
        }
        self.values.resize(groups, self.unit);
        if let Some(seen) = &mut self.seen {
            seen.resize(groups);
        }
    }

    /// The values of some groups.
    pub(super) fn rows(&self, locals: &[u32]) -> Self {
        let values = locals.iter().map(|local| self.values[*local as usize]).collect();
        let seen = self.seen.as_ref().map(|seen| {
            let mut taken = BooleanBufferBuilder::new(locals.len());
            for local in locals {
                taken.append(seen.get_bit(*local as usize));
            }
            taken
        });
        Self { values, seen, unit: self.unit }
    }

    /// Puts back the values of some groups.
    pub(super) fn set_rows(&mut self, locals: &[u32], rows: &Self) {
        if rows.seen.is_some() && self.seen.is_none() {
            self.keep_seen();
        }
        for (local, value) in locals.iter().zip(&rows.values) {
            self.values[*local as usize] = *value;
        }
        if let Some(seen) = &mut self.seen {
            for (row, local) in locals.iter().enumerate() {
                seen.set_bit(*local as usize, rows.seen.as_ref().is_none_or(|rows| rows.get_bit(row)));
            }
        }
    }

    pub(super) fn into_array<P>(mut self, of: &DataType) -> ArrayRef
    where
        P: ArrowPrimitiveType<Native = T>,
    {
        let nulls =
            self.seen.as_mut().map(|seen| NullBuffer::new(seen.finish())).filter(|nulls| nulls.null_count() > 0);
        let array = PrimitiveArray::<P>::new(ScalarBuffer::from(self.values), nulls);
        if *of == P::DATA_TYPE {
            return Arc::new(array);
        }
        let data = array.into_data().into_builder().data_type(of.clone());
        make_array(data.build().expect("only the reading of 64-bit values changes"))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<T>() + self.seen.as_ref().map_or(0, |seen| seen.capacity() / 8)
    }
}
