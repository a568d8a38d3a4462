//! Who on this gateway hears of a model's version, and says whether it is well: a program, a URL, a check; all within the
//! operator's time.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::edge::Model;
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
        })
    }
}

/// Tells program and URL.
pub async fn tell(model: &Model, switched: &Switched) -> Result<(), String> {
    let until = Instant::now() + model.health_timeout;
    health::run_with(&model.hook, &switched.variables(), model.health_timeout, KEY).await?;
    let Some(url) = model.http.clone() else { return Ok(()) };
    let (body, left) = (switched.json().to_string(), until.saturating_duration_since(Instant::now()));
    let sent = tokio::task::spawn_blocking(move || post(&url, &body, left)).await;
    sent.unwrap_or_else(|e| Err(e.to_string()))
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
