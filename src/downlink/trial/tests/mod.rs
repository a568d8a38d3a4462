//! The trial under random histories, crashes at every step, and on a real disk.

mod disk;
mod examples;
mod histories;
mod oracle;
mod world;

use super::Number;

/// The nth of all numbers in their order, some of them in each epoch; 0: none.
fn nth(n: u64) -> Number {
    n.checked_sub(1).map_or(Number::default(), |n| Number::new(n / 4, 1 + n % 4))
}

/// Which of them it is.
fn place_of(number: Number) -> u64 {
    number.epoch * 4 + number.n
}
