//! What keeps pushed configuration on a gateway: its files, what runs at a start, whom it believes, what it tells.
//! The loop that applies it is `app::keeper`; it knows a running gateway by a narrow trait.
//!
//! ```text
//! inbox ─► Inbox (signature, number) ─► accepted (on disk) ─► valid over the own file? ─► trial::Machine ─► slots
//! commands ─► orders (signature, expiry) ─► commands' journal ─► acknowledged
//! ```

pub mod begin;
pub mod health;
pub mod inbox;
pub mod key;
pub mod meters;
pub mod orders;
pub mod status;
pub mod store;

use crate::event::time::Timestamp;
use crate::sys::clock::Clock;

pub use begin::{Begun, begin, inbox as open_inbox};
pub use inbox::Inbox;
pub use status::Status;
pub use store::Store;

/// 2026-01-01T00:00:00Z: a clock before this program was written is wrong, as after a boot without a battery.
const CLOCK_WRONG_BEFORE_MS: i64 = 1_767_225_600_000;

/// The time; `None` while the clock cannot be right. One that is merely behind lets expired things live longer; what was
/// replaced by something newer is refused by its number all the same.
pub fn trusted_now(clock: &Clock) -> Option<Timestamp> {
    let now_ms = clock.unix_ms();
    (now_ms >= CLOCK_WRONG_BEFORE_MS).then(|| Timestamp::from_unix_ms(now_ms))
}
