//! Randomness that a failing test can repeat.

/// xorshift64*: enough for schedules of faults.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// The seed is `TIDEGATE_TEST_SEED`, or new at every run and printed.
    pub fn from_environment() -> Self {
        let fresh = u64::from(std::process::id()) ^ (&raw const *Box::new(0u8)).addr() as u64;
        let seed = super::setting("TIDEGATE_TEST_SEED", fresh).max(1);
        println!("seed {seed}: TIDEGATE_TEST_SEED={seed} repeats this schedule");
        Self { seed, state: seed }
    }

    /// The same numbers for the same seed; two seeds that are close give numbers that are not.
    pub fn seeded(seed: u64) -> Self {
        // The last steps of splitmix64: xorshift alone begins alike for 1 and 2.
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self { seed, state: (mixed ^ (mixed >> 31)).max(1) }
    }

    /// The seed, for the failure's message.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number from 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound.max(1)
    }
}
