//! Status, liveness, readiness and metrics.

use std::sync::atomic::Ordering;

use tidegate::observe::status::LinkState;

use crate::harness::Gate;

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn the_status_says_who_how_much_and_in_what_state() {
    let gate = Gate::start(|_| {});
    gate.links.update("telemetry", |l| {
        l.state = LinkState::Down;
        l.last_error = Some("refused".into());
    });
    gate.post("/v1/events", JSON, "1").await;
    let status = gate.get("/v1/status").await;
    assert_eq!((status.status, status.headers["content-type"].as_str()), (200, "application/json"));
    let status = status.json();
    assert_eq!(status["node"], "press-7");
    assert_eq!(status["incarnation"].as_str().unwrap().len(), 16);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["ready"], true);
    let lane = &status["lanes"][0];
    assert_eq!((&lane["name"], &lane["last_seq"], &lane["confirmed_seq"]), (&"telemetry".into(), &1.into(), &0.into()));
    assert_eq!(lane["backlog_events"], 1);
    assert_eq!((&lane["link"]["state"], &lane["link"]["last_error"]), (&"down".into(), &"refused".into()));
    assert_eq!(status["limits"]["body_bytes_max"], 16 << 20);
    assert_eq!(status["limits"]["header_timeout_ms"], 10_000);
}

#[tokio::test]
async fn liveness_does_not_depend_on_readiness_or_the_cloud() {
    let gate = Gate::start(|_| {});
    gate.links.update("telemetry", |l| l.state = LinkState::Down);
    assert_eq!(gate.get("/readyz").await.status, 200);
    gate.ready.store(false, Ordering::Release);
    let reply = gate.get("/readyz").await;
    reply.problem(503, "not-ready");
    assert_eq!(reply.headers["retry-after"], "5");
    assert_eq!(gate.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn metrics_are_openmetrics_and_count() {
    let gate = Gate::start(|_| {});
    gate.post("/v1/events", JSON, "{\"a\":1}").await;
    let reply = gate.get("/metrics").await;
    assert!(reply.headers["content-type"].starts_with("application/openmetrics-text; version=1.0.0"));
    for (line, value) in [
        ("tidegate_http_requests_total{code=\"202\"}", 1.0),
        ("tidegate_http_accepted_events_total", 1.0),
        ("tidegate_http_accepted_data_bytes_total", 7.0),
        ("tidegate_http_refused_total{reason=\"busy\"}", 0.0),
        ("tidegate_http_post_duration_seconds_count", 1.0),
    ] {
        assert_eq!(gate.metric(line).await, value, "{line}");
    }
}
