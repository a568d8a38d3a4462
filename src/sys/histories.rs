//! For property tests: how many histories they play, and a line that says how many they were.

use std::cell::Cell;

thread_local! {
    // proptest plays all cases on the test's own thread.
    static PLAYED: Cell<u64> = const { Cell::new(0) };
}

/// How many cases: `PROPTEST_CASES` instead of `default`.
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A history begins.
pub fn played() {
    PLAYED.set(PLAYED.get() + 1);
}

/// Plays all histories of a test, at least as many as said, and prints how many they were (`-- --nocapture` shows it).
pub fn count(test: &str, least: u32, play_all: fn()) {
    PLAYED.set(0);
    play_all();
    let played = PLAYED.get();
    println!("{test}: {played} histories");
    assert!(played >= least.into(), "{test} played {played} histories, and {least} were asked for");
}
