//! The link's task.

use std::convert::Infallible;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Heard, Meters, NotSent, Order, Status, Wanted};
use crate::sys::clock::Clock;

/// Runs until `stop`, or until nobody holds the other ends.
pub(super) async fn run(
    _wants: watch::Receiver<Wanted>,
    mut orders: mpsc::Receiver<Order>,
    _heard: mpsc::Sender<Heard>,
    _status: Status,
    _clock: Clock,
    meters: Meters,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    while let Some(Some(order)) = stop.run_until_cancelled(orders.recv()).await {
        meters.reports_failed.inc();
        let _ = order.answer.send(Err(NotSent::Off));
    }
    Ok(())
}
