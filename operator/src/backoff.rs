//! How long after an error an object is tried again.

use std::time::Duration;

use crate::cluster::writer::WriteError;

/// A source of numbers for jitter, seeded by whoever makes it.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice whose seed is the hash of a text: they always fall the same for one.
    pub fn of(text: &str) -> Self {
        let seed = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(seed)
    }

    /// From 0 to 1 (splitmix64).
    pub fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The wait after the error of the `attempt`-th try in a row, from 1; `None` if only a change helps.
///
/// | error | first wait | longest |
/// |---|---|---|
/// | somebody wrote at the same time | 100 ms | 5 s |
/// | the API server cannot be reached, or fails | 500 ms | 1 min |
/// | it says no: no right, or not such an object | 5 s | 5 min |
/// | the Pipeline's spec makes an object that is none | 5 min | 5 min |
///
/// Each wait is twice the one before it, less up to a third by chance.
pub fn after(error: &WriteError, attempt: u32, dice: &mut Dice) -> Option<Duration> {
    let (first_ms, longest_ms) = match error {
        WriteError::Conflict(_) => (100, 5_000),
        WriteError::Unreachable(_) | WriteError::Failing { .. } | WriteError::TimedOut => (500, 60_000),
        WriteError::Forbidden(_) | WriteError::Rejected(_) | WriteError::Terminating(_) | WriteError::Gone(_) => {
            (5_000, 300_000)
        }
        WriteError::Invalid(_) => (300_000, 300_000),
        WriteError::NotLeading => return None,
    };
    let doublings = attempt.saturating_sub(1).min(20);
    let wait_ms = (first_ms << doublings).min(longest_ms) as f64;
    Some(Duration::from_millis((wait_ms * (1.0 - dice.fraction() / 3.0)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_of_their_kind_with_jitter() {
        let mut dice = Dice::of("operator-0");
        let conflict = WriteError::Conflict(String::new());
        let forbidden = WriteError::Forbidden(String::new());
        for (error, attempt, most_ms) in [
            (&conflict, 1, 100),
            (&conflict, 3, 400),
            (&conflict, 40, 5_000),
            (&forbidden, 1, 5_000),
            (&forbidden, 99, 300_000),
            (&WriteError::Rejected(String::new()), 1, 5_000),
            (&WriteError::Gone(String::new()), 2, 10_000),
            (&WriteError::TimedOut, 1, 500),
            (&WriteError::TimedOut, 4, 4_000),
            (&WriteError::TimedOut, 99, 60_000),
        ] {
            for _ in 0..100 {
                let wait = after(error, attempt, &mut dice).unwrap();
                let most = Duration::from_millis(most_ms);
                assert!(
                    wait <= most && wait >= most * 2 / 3 - Duration::from_millis(1),
                    "{error:?} {attempt}: {wait:?}"
                );
            }
        }
        let mut seen: Vec<_> = (0..20).map(|_| after(&forbidden, 9, &mut dice)).collect();
        seen.dedup();
        assert!(seen.len() > 10, "waits are spread");
        assert_eq!(after(&WriteError::NotLeading, 1, &mut dice), None);
    }
}
