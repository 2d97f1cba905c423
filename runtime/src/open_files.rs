//! How many files the process may have open: as many as the system lets it.
//!
//! Shells and service managers start processes with room for 1,024 files and let them ask for more. An epoch of a partitioned
//! sink may have more than that open until its barrier, and so may a state of many files.

/// More than this is not asked for, however much there may be.
const ENOUGH: libc::rlim_t = 1 << 20;

/// Raises the limit to what is allowed. Where that fails everything runs as before, with less room.
pub(crate) fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call, which writes to it and keeps nothing.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    let wanted = limit.rlim_max.min(ENOUGH);
    if limit.rlim_cur >= wanted {
        return;
    }
    limit.rlim_cur = wanted;
    // SAFETY: `limit` is valid for the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        tracing::debug!(wanted, "the limit of open files stays as it is");
    }
}
