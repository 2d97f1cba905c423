//! A growing array in segments that a snapshot shares.

use std::sync::Arc;

const BITS: u32 = 14;
const SEGMENT: usize = 1 << BITS;
const MASK: usize = SEGMENT - 1;
const FIRST: usize = 64;

/// Values by index. Cloning shares the segments; the next push after a clone copies the last one, at most 16,384 values.
#[derive(Clone)]
pub(super) struct Segments<T> {
    segments: Vec<Arc<[T]>>,
    len: usize,
}

impl<T> Default for Segments<T> {
    fn default() -> Self {
        Self { segments: Vec::new(), len: 0 }
    }
}

impl<T: Copy + Default> Segments<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> T {
        self.segments[index >> BITS][index & MASK]
    }

    #[inline]
    pub(super) fn push(&mut self, value: T) {
        let (segment, at) = (self.len >> BITS, self.len & MASK);
        if segment == self.segments.len() {
            let capacity = if segment == 0 { FIRST } else { SEGMENT };
            self.segments.push(vec![T::default(); capacity].into());
        } else if at == self.segments[segment].len() {
            let mut wider = self.segments[segment].to_vec();
            wider.resize((at * 2).min(SEGMENT), T::default());
            self.segments[segment] = wider.into();
        }
        Arc::make_mut(&mut self.segments[segment])[at] = value;
        self.len += 1;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.segments.iter().map(|segment| size_of_val(&segment[..])).sum()
    }
}
