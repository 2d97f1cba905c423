//! Every decision of the checkpoint protocol, without I/O.
//!
//! # The protocol
//!
//! ```text
//!  Coordinator (pure)          its executor            workers           manifests        pointer       sinks, sources
//!      │ Inject N                   │                     │                  │               │                 │
//!      ├───────────────────────────▶├── Barrier(N) ──────▶│ snapshot, upload │               │                 │
//!      │◀──────────── Acked N ──────┤◀── acknowledged ────┤                  │               │                 │
//!      │ WriteManifest N            │                     │                  │               │                 │
//!      ├───────────────────────────▶├── create if absent ────────────────────▶               │                 │
//!      │ MovePointer N              │                                        │               │                 │
//!      ├───────────────────────────▶├── compare and swap ────────────────────────────────────▶ N is decided    │
//!      │ NotifyDecided N, CommitSinks N                                                      │                 │
//!      ├───────────────────────────▶├── forget before N; show N ───────────────────────────────────────────────▶
//!      │ Retire                     │                                                                          │
//!      ├───────────────────────────▶├── delete what no kept manifest names                                     │
//! ```
//!
//! An epoch is *decided* when, and only when, the pointer has moved to it. Its manifest alone decides nothing: the pointer
//! may never move. The pointer also lists the decided epochs that are kept ([`Pointer::decided`]), so that a manifest that
//! was written and never decided is not mistaken for a checkpoint later.
//!
//! # Invariants
//!
//! Each is a named predicate of the model in `tests/checkpoint`, which is checked over all interleavings of two
//! coordinators, two workers, lost, late and repeated messages, and crashes.
//!
//! 1. No sink commits an epoch before it is decided.
//! 2. Sinks commit epochs in order.
//! 3. No source forgets before the decision.
//! 4. An older generation decides nothing.
//! 5. No file that a kept manifest names is deleted.
//! 6. A worker restores decided epochs only.
//!
//! # A coordinator's life
//!
//! One [`Coordinator`] drives one run of the graph, under a generation that no other run has ever had.
//!
//! 1. Take a new generation.
//! 2. [`claim`] the pointer. From here on every older generation is fenced, and what the pointer says stays true. A run
//!    that cleaned up before its claim could remove what an older coordinator decides a moment later.
//! 3. Read what is stored, and [`recover`]: it says which epoch is restored, if any, and which manifests are orphans.
//! 4. Commit the restored epoch's sinks again; then remove the orphans and what they alone name.
//! 5. Start the tasks, and give [`Coordinator::on`] every [`Event`]; do every [`Action`], in order.
//! 6. After [`Action::StepDown`], [`Action::Ended`], [`Action::Restart`] or [`Action::Halt`] it says nothing more.
//!
//! # What is elsewhere
//!
//! What tasks put into an acknowledgement, how manifests look and where they lie is no matter of this module; it speaks of
//! epochs and of names of files.

mod coordinator;
mod ledger;
mod pointer;
mod protocol;
mod rebuild;
mod recovery;
mod retention;

pub use coordinator::{Coordinator, Start};
pub use ledger::Ledger;
pub use pointer::{Advance, Claim, Decided, Pointer, Taken, advance, claim};
pub use protocol::{AbortReason, Action, Event, Failure, ManifestOutcome, PointerOutcome, Settings};
pub use rebuild::{Listed, rebuild};
pub use recovery::{Facts, ManifestState, Recovery, Refusal, recover};
pub use retention::{FileName, keep, retire};
