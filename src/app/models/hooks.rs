//! Who on this gateway hears of a model's version, and says whether it is well: a program, a URL, a check; all within the
//! operator's time.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::edge::Model;
use crate::downlink::commands::{Publisher, Retained};
use crate::downlink::keeper::health;

/// How often a check that fails is made again: a program that loads a model needs a moment.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The configuration's key in messages.
const KEY: &str = "model.health_timeout";

/// What is in use now.
pub struct Switched {
    /// The model.
    pub name: String,
    /// Its version and file; `None`: none.
    pub version: Option<(u64, PathBuf)>,
    /// The version that a rollback leads to.
    pub previous: Option<u64>,
}

impl Switched {
    fn variables(&self) -> [(&'static str, String); 3] {
        let version = self.version.as_ref().map_or_else(String::new, |(version, _)| version.to_string());
        let path = self.version.as_ref().map_or_else(String::new, |(_, path)| path.display().to_string());
        [("TIDEGATE_MODEL_NAME", self.name.clone()), ("TIDEGATE_MODEL_VERSION", version), ("TIDEGATE_MODEL_PATH", path)]
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "version": self.version.as_ref().map(|(version, _)| version),
            "path": self.version.as_ref().map(|(_, path)| path.display().to_string()),
            "previous": self.previous,
        })
    }
}

/// What is retained on a model's topic.
pub fn retained(topic: &str, switched: &Switched) -> Retained {
    Retained {
        topic: topic.to_owned(),
        payload: Bytes::from(switched.json().to_string()),
        content_type: Some("application/json".to_owned()),
        user: Vec::new(),
        expires_in_ms: None,
    }
}

/// Tells program, URL and topic.
pub async fn tell(model: &Model, switched: &Switched, publisher: &dyn Publisher) -> Result<(), String> {
    let until = Instant::now() + model.health_timeout;
    health::run_with(&model.hook, &switched.variables(), model.health_timeout, KEY).await?;
    if let Some(url) = model.http.clone() {
        let (body, left) = (switched.json().to_string(), until.saturating_duration_since(Instant::now()));
        let sent = tokio::task::spawn_blocking(move || post(&url, &body, left)).await;
        sent.unwrap_or_else(|e| Err(e.to_string()))?;
    }
    let Some(topic) = &model.topic else { return Ok(()) };
    let published = timeout_at(until, publisher.publish(retained(topic, switched))).await;
    let published = published.unwrap_or_else(|_| Err(format!("not on disk within {KEY}")));
    published.map_err(|why| format!("publishing on {topic}: {why}"))
}

/// Waits until the check says that it is well, within what is left of the time.
pub async fn check(model: &Model, switched: &Switched, begun: Instant) -> Result<(), String> {
    let until = begun + model.health_timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Err(why) = health::run_with(&model.health, &switched.variables(), left, KEY).await else { return Ok(()) };
        if until.saturating_duration_since(Instant::now()) <= CHECK_EVERY {
            return Err(why);
        }
        sleep(CHECK_EVERY).await;
    }
}

fn post(url: &str, body: &str, time: Duration) -> Result<(), String> {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // It is told to whom the operator names, on this machine, and to nobody else.
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(time))
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let answer = agent.post(url).header("content-type", "application/json").send(body);
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("{url} answered {}", answer.status())),
        Err(e) => Err(format!("{url}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::sys::tasks::thread;

    fn switched() -> Switched {
        Switched { name: "anomaly".to_owned(), version: Some((7, PathBuf::from("/m/7/model"))), previous: Some(6) }
    }

    /// A broker that takes nothing.
    struct Nobody;

    impl Publisher for Nobody {
        fn publish(&self, _: Retained) -> BoxFuture<'_, Result<(), String>> {
            std::future::ready(self.retain_nothing()).boxed()
        }

        fn retain(&self, _: Retained) -> Result<(), String> {
            self.retain_nothing()
        }

        fn clear(&self, _: String) -> BoxFuture<'_, Result<(), String>> {
            std::future::ready(self.retain_nothing()).boxed()
        }
    }

    impl Nobody {
        fn retain_nothing(&self) -> Result<(), String> {
            Err("the journal is full".to_owned())
        }
    }

    #[tokio::test]
    async fn what_cannot_be_published_is_a_failure() {
        let model = Model { topic: Some("models/anomaly".to_owned()), ..Model::default() };
        let failed = tell(&model, &switched(), &Nobody).await;
        assert_eq!(failed, Err("publishing on models/anomaly: the journal is full".to_owned()));
    }

    /// Answers one request with `status`; what it was.
    fn server(status: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/model", listener.local_addr().unwrap());
        let served = thread("server", move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"}") {
                let mut buffer = [0; 1024];
                let n = stream.read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..n]);
            }
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            String::from_utf8(got).unwrap()
        });
        (url, served.unwrap())
    }

    #[tokio::test]
    async fn a_url_is_told_of_the_version_in_use_and_its_answer_counts() {
        for (status, well) in [("204 No Content", true), ("503 Service Unavailable", false), ("302 Found", false)] {
            let (url, served) = server(status);
            let model = Model { http: Some(url), ..Model::default() };
            let told = tell(&model, &switched(), &Nobody).await;
            assert_eq!(told.is_ok(), well, "{status}: {told:?}");
            let got = served.join().unwrap();
            assert!(got.starts_with("POST /model HTTP/1.1\r\n"), "{got}");
            assert!(got.ends_with(r#"{"name":"anomaly","path":"/m/7/model","previous":6,"version":7}"#), "{got}");
        }
    }

    #[tokio::test]
    async fn a_check_is_made_again_until_it_succeeds_or_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "test $TIDEGATE_MODEL_VERSION = 7 && {{ test -e {0} || {{ touch {0}; exit 1; }}; }}",
            dir.path().join("f").display()
        );
        let health = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        let model = Model { health, health_timeout: Duration::from_secs(60), ..Model::default() };
        assert_eq!(check(&model, &switched(), Instant::now()).await, Ok(()));
        let health = ["/bin/sh", "-c", "echo no >&2; exit 3"].map(str::to_owned).to_vec();
        let model = Model { health, health_timeout: Duration::from_millis(100), ..Model::default() };
        let failed = check(&model, &switched(), Instant::now()).await.unwrap_err();
        assert!(failed.contains("exit status: 3: no") || failed.contains("not ended within"), "{failed}");
    }
}
