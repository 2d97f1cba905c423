//! What a replica does about the Lease, from what it has seen of it.

use std::time::Duration;

/// What was seen of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its version; `None` if it is not there.
    pub version: Option<String>,
    /// Who holds it.
    pub holder: Option<String>,
    /// Since when it has been like this, by our own clock: clocks of different machines are never compared.
    pub since: Duration,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is not there: make it.
    Create,
    /// Nobody holds it, or whoever does has not renewed it for its whole length.
    Take,
    /// It is ours.
    Renew,
    /// It is another's.
    Wait,
}

/// Decides.
pub fn decide(seen: &Seen, me: &str, now: Duration, lease: Duration) -> Decision {
    match &seen.holder {
        _ if seen.version.is_none() => Decision::Create,
        Some(holder) if holder == me => Decision::Renew,
        None => Decision::Take,
        Some(_) if now.saturating_sub(seen.since) >= lease => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn seen(version: Option<&str>, holder: Option<&str>, since: u64) -> Seen {
        Seen {
            version: version.map(str::to_owned),
            holder: holder.map(str::to_owned),
            since: Duration::from_secs(since),
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_has_not_changed_for_its_whole_length() {
        let now = Duration::from_secs(20);
        assert_eq!(decide(&seen(None, None, 20), "me", now, LEASE), Decision::Create);
        assert_eq!(decide(&seen(Some("1"), None, 20), "me", now, LEASE), Decision::Take);
        assert_eq!(decide(&seen(Some("1"), Some("me"), 0), "me", now, LEASE), Decision::Renew);
        assert_eq!(decide(&seen(Some("1"), Some("other"), 11), "me", now, LEASE), Decision::Wait);
        assert_eq!(decide(&seen(Some("1"), Some("other"), 10), "me", now, LEASE), Decision::Take);
    }
}
