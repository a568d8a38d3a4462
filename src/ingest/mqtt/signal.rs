//! How others reach a connection's task: something to take, or an order to end. No queue: saying it twice is saying it once.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::packet::Reason;

/// What was said since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// There is something to take.
    pub wake: bool,
    /// The connection must end, for this reason.
    pub end: Option<Reason>,
}

/// Shared by a connection's task, which listens, and all others, which speak.
#[derive(Debug, Default)]
pub struct Signal {
    wake: AtomicBool,
    /// 0: no order to end. The first order stands.
    end: AtomicU8,
    waker: AtomicWaker,
}

impl Signal {
    /// There is something to take.
    pub fn wake(&self) {
        if !self.wake.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// The connection must end.
    pub fn end(&self, reason: Reason) {
        // Reasons to end a connection are errors and not 0, but for "normal disconnection", which nobody orders.
        let said = self.end.compare_exchange(0, reason.0.max(1), Ordering::AcqRel, Ordering::Relaxed);
        if said.is_ok() {
            self.waker.wake();
        }
    }

    /// Waits until something was said.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Said> {
        self.waker.register(cx.waker());
        let wake = self.wake.swap(false, Ordering::AcqRel);
        let end = match self.end.swap(0, Ordering::AcqRel) {
            0 => None,
            reason => Some(Reason(reason)),
        };
        if wake || end.is_some() { Poll::Ready(Said { wake, end }) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    #[test]
    fn what_is_said_is_heard_once_and_the_first_order_stands() {
        let signal = Signal::default();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        assert_eq!(signal.poll(&mut cx), Poll::Pending);
        signal.wake();
        signal.wake();
        signal.end(Reason::SESSION_TAKEN_OVER);
        signal.end(Reason::SERVER_SHUTTING_DOWN);
        let said = Said { wake: true, end: Some(Reason::SESSION_TAKEN_OVER) };
        assert_eq!(signal.poll(&mut cx), Poll::Ready(said));
        assert_eq!(signal.poll(&mut cx), Poll::Pending);
    }
}
