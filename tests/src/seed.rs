//! Random choices that can be made again.

use std::time::Duration;

/// A generator of choices (SplitMix64). The same seed makes the same choices.
#[derive(Clone, Debug)]
pub struct Seed {
    state: u64,
}

impl Seed {
    /// The seed that `MILLRACE_SEED` says, or a new one; printed, so that a failed run can be repeated.
    pub fn of_test(name: &str) -> Self {
        let seed = match std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()) {
            Some(seed) => seed,
            None => new_seed(),
        };
        println!("{name}: repeat with MILLRACE_SEED={seed}");
        Self::new(seed)
    }

    /// A generator that begins here.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// A number from `low` up to, not including, `high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low) as u64) as i64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Some of them, in their order.
    pub fn some<'a, T>(&mut self, of: &'a [T]) -> Vec<&'a T> {
        of.iter().filter(|_| self.one_in(2)).collect()
    }

    /// In another order.
    pub fn shuffle<T>(&mut self, of: &mut [T]) {
        for last in (1..of.len()).rev() {
            of.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// A time between two.
    pub fn time(&mut self, low: Duration, high: Duration) -> Duration {
        low + Duration::from_micros(self.below((high - low).as_micros() as u64))
    }

    /// A generator whose choices do not depend on how many this one has made since.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }
}

#[expect(clippy::disallowed_methods, reason = "a new seed comes from the clock")]
fn new_seed() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Seed::new(since_epoch.as_nanos() as u64).next_u64() >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| {
            let mut seed = Seed::new(seed);
            (0..10).map(|_| seed.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }
}
