//! One connection: hyper, its limits, and the split between the hot path and the pages.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future;
use http_body_util::{BodyExt, Either};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::caller::Caller;
use super::commands;
use super::events::{self, Target};
use super::problem::{self, Answer, AnswerBody};
use super::stream::Guarded;
use super::{Shared, pages};
use crate::ingest::refusal::Refusal;
use crate::security::server::ServerTls;

/// Time for a connection to finish its request once the gateway stops. A commit takes milliseconds; a body
/// that is still coming is not acknowledged, so its sender repeats it.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Most bytes hyper buffers per connection; also bounds a request's head: 32 extension attributes of 1 KiB are
/// possible but not sensible. With hyper's default of 400 KiB, 10,000 slow heads could take 4 GB.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// Makes connections out of streams. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    http: http1::Builder,
    pages: pages::Pages,
}

impl Server {
    pub fn new(shared: Arc<Shared>) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .max_buf_size(BUFFER_BYTES_MAX)
            // A sender may close its half after the request and still wants the answer.
            .half_close(true);
        let pages = pages::pages(&shared);
        Self { shared, http, pages }
    }

    /// Serves `stream` until either side ends it or the gateway stops.
    pub fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<ServerTls>,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Answers are small and waited for. A failure only costs time.
        let _ = stream.set_nodelay(true);
        match tls {
            None => future::Either::Left(self.serve(stream, Caller::new(peer, None), peer)),
            Some(tls) => future::Either::Right(self.clone().shake_hands(stream, peer, tls)),
        }
    }

    async fn shake_hands(self, stream: TcpStream, peer: SocketAddr, tls: ServerTls) {
        let stopping = self.shared.stopping.child_token();
        let accepted = tokio::select! {
            accepted = tls.accept(stream, self.shared.gateway.http.now().header_timeout) => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            // On the heap: a connection without TLS must not be as large as one with it.
            Ok((stream, certificate)) => Box::pin(self.serve(stream, Caller::new(peer, certificate), peer)).await,
            Err(reason) => {
                self.shared.counters.tls_failed.inc();
                tracing::debug!(%peer, %reason, "no TLS");
            }
        }
    }

    /// The seam for TLS: any byte stream, after its handshake.
    fn serve<S>(
        &self,
        stream: S,
        caller: Caller,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + Send + use<S> + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unread = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Guarded::new(stream, unread.clone()));
        let (shared, pages) = (self.shared.clone(), self.pages.clone());
        let caller = Arc::new(caller);
        let open = Open::new(&shared);
        // A child: waiting on the one token of all connections would make each request take its lock.
        let stopping = shared.stopping.child_token();
        let mut http = self.http.clone();
        // Runs from the moment a head may come, so it also ends idle connections.
        http.header_read_timeout(self.shared.gateway.http.now().header_timeout);
        let connection = http.serve_connection(
            io,
            service_fn(move |request| answer(shared.clone(), caller.clone(), pages.clone(), unread.clone(), request)),
        );
        async move {
            let _open = open;
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    match tokio::time::timeout(SHUTDOWN_GRACE, connection).await {
                        Ok(ended) => ended,
                        Err(_) => return tracing::debug!(%peer, "connection cut: its request did not end in time"),
                    }
                }
            };
            if let Err(reason) = ended {
                tracing::debug!(%peer, %reason, "connection ended");
            }
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    pages: pages::Pages,
    unread: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    // The POST of events is answered before warp, not for speed: `benches/http_ingest.rs` shows no cost of warp's
    // routing beyond the noise (8.9 to 9.1 us CPU a request against 8.5 to 9.6 without it). But warp hands out the
    // body as an opaque stream, and a refusal must know whether a part of the body is left on the wire.
    let (mut response, body_left) = if Target::wanted(&request) {
        let (response, body_left) = events::post(&shared, &caller, request).await;
        (response.map(Either::Left), body_left)
    } else if commands::Target::of(request.uri().path()).is_some() {
        match caller.identify(&shared.gateway.gate, request.headers()).await {
            Ok(identity) => commands::serve(&shared, &identity, request).await,
            Err(refusal) => {
                shared.counters.refused(refusal.kind);
                (problem::answer(&refusal).map(Either::Left), !request.body().is_end_stream())
            }
        }
    } else {
        let has_body = !request.body().is_end_stream();
        match admitted(&shared, &caller, &request).await {
            Ok(()) => {
                let Ok(response) = pages.call(request).await;
                (response.map(|body| Either::Right(body.map_err(Into::into).boxed_unsync())), has_body)
            }
            Err(refusal) => {
                shared.counters.refused(refusal.kind);
                (problem::answer(&refusal).map(Either::Left), has_body)
            }
        }
    };
    if body_left {
        unread.store(true, Ordering::Relaxed);
        close(&mut response);
    }
    shared.counters.answered(response.status());
    Ok(response)
}

/// Whether the pages may be seen. What tells of this gateway's inside is for operators, and for who is on this
/// machine: its supervisor and its agent for metrics. Whether it lives and is ready, everybody may know.
async fn admitted(shared: &Shared, caller: &Caller, request: &Request<Incoming>) -> Result<(), Refusal> {
    let path = request.uri().path();
    match path.strip_suffix('/').unwrap_or(path) {
        page @ ("/metrics" | "/v1/status") => caller.operates(&shared.gateway.gate, request.headers(), page).await,
        _ => Ok(()),
    }
}

/// What is left of the body would be read as the next request's head: this was the last one.
fn close(response: &mut Response<AnswerBody>) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Counts a connection while it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.counters.connections.inc();
        shared.counters.connections_open.inc();
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections_open.dec();
    }
}
