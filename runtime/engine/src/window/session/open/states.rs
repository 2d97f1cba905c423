//! The states of sessions, as columns.
//!
//! A *piece* holds the states of the sessions that were folded at a time and never changes; a session knows its piece and
//! its row. A piece of which no row is in use is dropped, and when most rows are of no use, those that are in use are
//! gathered into one piece. A snapshot shares the pieces.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, UInt32Array},
    compute,
};

use crate::operator::OperatorError;

/// Where a state lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) piece: u32,
    pub(super) row: u32,
}

/// The place of a state that is not there.
pub(super) const NOWHERE: At = At { piece: u32::MAX, row: 0 };

/// So many rows of no use are never worth gathering the others.
const FEW: usize = 64 * 1024;

struct Piece {
    columns: Vec<ArrayRef>,
    rows: usize,
    bytes: usize,
}

/// Pieces by number. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Pieces(Vec<Option<Arc<Piece>>>);

impl Pieces {
    /// Adds a piece.
    pub(super) fn push(&mut self, columns: Vec<ArrayRef>, rows: usize) -> u32 {
        self.0.push(Some(Arc::new(Piece::new(columns, rows))));
        self.0.len() as u32 - 1
    }

    /// The states at these places, in order; `empty` are columns without rows.
    pub(super) fn gather(&self, at: &[At], empty: &[ArrayRef]) -> Result<Vec<ArrayRef>, OperatorError> {
        if empty.is_empty() || at.is_empty() {
            return Ok(empty.to_vec());
        }
        let mut places = vec![usize::MAX; self.0.len()];
        let mut pieces: Vec<&Piece> = Vec::new();
        let mut rows: Vec<(usize, usize)> = Vec::with_capacity(at.len());
        for At { piece, row } in at {
            let place = &mut places[*piece as usize];
            if *place == usize::MAX {
                *place = pieces.len();
                pieces.push(self.0[*piece as usize].as_deref().ok_or_else(|| OperatorError::Damaged {
                    found: "a piece of states that is gone".into(),
                    expected: "the states of sessions",
                })?);
            }
            rows.push((*place, *row as usize));
        }
        if let [piece] = pieces[..] {
            let rows = UInt32Array::from_iter_values(at.iter().map(|at| at.row));
            return Ok(compute::take_arrays(&piece.columns, &rows, None)?);
        }
        let column = |at: usize| {
            let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| piece.columns[at].as_ref()).collect();
            compute::interleave(&pieces, &rows)
        };
        Ok((0..empty.len()).map(column).collect::<Result<_, _>>()?)
    }
}

impl Piece {
    fn new(columns: Vec<ArrayRef>, rows: usize) -> Self {
        let bytes = columns.iter().map(|column| column.get_array_memory_size()).sum();
        Self { columns, rows, bytes }
    }
}

/// The states of sessions.
#[derive(Default)]
pub(super) struct States {
    pieces: Pieces,
    /// How many rows of each piece are in use.
    used: Vec<u32>,
    free: Vec<u32>,
    rows: usize,
    rows_in_use: usize,
    bytes: usize,
}

impl States {
    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Adds a piece, whose rows are all in use.
    pub(super) fn add(&mut self, columns: Vec<ArrayRef>, rows: usize) -> u32 {
        let piece = Piece::new(columns, rows);
        self.rows += rows;
        self.rows_in_use += rows;
        self.bytes += piece.bytes;
        let number = self.free.pop().unwrap_or_else(|| {
            self.pieces.0.push(None);
            self.used.push(0);
            self.used.len() as u32 - 1
        });
        self.used[number as usize] = rows as u32;
        self.pieces.0[number as usize] = Some(Arc::new(piece));
        if rows == 0 {
            self.drop_piece(number);
        }
        number
    }

    /// A state is not in use any more.
    pub(super) fn release(&mut self, at: At) {
        if at == NOWHERE {
            return;
        }
        self.rows_in_use -= 1;
        let used = &mut self.used[at.piece as usize];
        *used -= 1;
        if *used == 0 {
            self.drop_piece(at.piece);
        }
    }

    fn drop_piece(&mut self, number: u32) {
        if let Some(piece) = self.pieces.0[number as usize].take() {
            self.rows -= piece.rows;
            self.bytes -= piece.bytes;
            self.free.push(number);
        }
    }

    /// Whether most rows are of no use.
    pub(super) fn is_sparse(&self) -> bool {
        self.rows > 2 * self.rows_in_use + FEW
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes + self.pieces.0.capacity() * size_of::<Option<Arc<Piece>>>()
    }
}
