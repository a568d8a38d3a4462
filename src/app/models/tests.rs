//! Steps of the loop with a model that scores events: whatever is wrong with it, the version before is in use again, and the
//! reason is the model's.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::work::{Ended, Hands};
use super::*;
use crate::config::edge::Inference as Scoring;
use crate::downlink::artefact::SecretKey;
use crate::downlink::commands::{Publisher, Retained};
use crate::event::Event;
use crate::event::tests::sample;
use crate::inference::engine::{Engine, Shape};
use crate::models::chunks::{self, Sizes};
use crate::models::delta::Layout;
use crate::models::hash::Hash;
use crate::models::manifest::{Format, Manifest, Signed};
use crate::models::pack::{self, Body, PIECE_BYTES_MAX};
use crate::models::store::Files;

/// How long the good version takes, and what ten times slower is too long.
const SLOW: Duration = Duration::from_millis(300);
const LATENCY_MAX: Duration = Duration::from_millis(100);

/// A model that does what its file says.
struct Says(Vec<u8>);

impl Engine for Says {
    fn run(&mut self, rows: &[f32], count: usize) -> Result<Vec<f32>, String> {
        let tried_out = rows.iter().all(|number| *number == 0.0);
        match self.0.as_slice() {
            b"nan" => Ok(vec![f32::NAN; count]),
            b"slow" if !tried_out => {
                std::thread::sleep(SLOW);
                Ok(vec![1.0; count])
            }
            b"crashes" if !tried_out => panic!("in the model"),
            _ => Ok(vec![1.0; count]),
        }
    }
}

fn open(bytes: &[u8], _: &Shape) -> Result<Box<dyn Engine>, String> {
    if bytes == b"broken" { Err("it is no model".to_owned()) } else { Ok(Box::new(Says(bytes.to_vec()))) }
}

/// Nobody follows.
struct Nobody;

impl Publisher for Nobody {
    fn publish(&self, _: Retained) -> BoxFuture<'_, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }

    fn retain(&self, _: Retained) -> Result<(), String> {
        Ok(())
    }

    fn clear(&self, _: String) -> BoxFuture<'_, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }
}

fn name() -> Name {
    Name::parse("anomaly").unwrap()
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32]).unwrap()
}

fn config(dir: &Path) -> EdgeConfig {
    let scoring = Scoring {
        model: name().to_string(),
        types: vec!["*".to_owned()],
        fields: vec!["/a".to_owned()],
        latency_max: LATENCY_MAX,
        ..Scoring::default()
    };
    let mut config = EdgeConfig { inferences: vec![scoring], ..EdgeConfig::default() };
    config.node.data_dir = dir.to_owned();
    config.downlink.artefact_keys = vec![key().public().to_string()];
    config.downlink.controller_keys = vec![SecretKey::from_seed(&[2; 32]).unwrap().public().to_string()];
    config
}

/// Puts a version on the disk, as a fetch does.
fn put(store: &mut Store<Files>, trust: &Trust, version: u64, file: &[u8]) {
    let (size, blake3) = (file.len() as u64, Hash::of(file));
    let format = Format::Onnx;
    let manifest = Manifest { name: name(), version, format, size, blake3, parent: None, metadata: BTreeMap::new() };
    let signed = Signed::verify(manifest.sign(&key()).unwrap().encode().as_bytes(), trust).unwrap();
    let cut = chunks::cut(file, Sizes::STANDARD).unwrap();
    let layout = Layout::of(&signed, &cut, &[], PIECE_BYTES_MAX).unwrap();
    let keep = [(name(), version)].into_iter().collect();
    let mut assembling = store.begin(&signed, &Arc::new(layout.index.clone()), &keep).unwrap().unwrap();
    let piece = pack::encode_piece(layout.heads, layout.places(), &[file]).unwrap();
    let Body::Piece(piece) = pack::decode(&piece).unwrap().body else { panic!("it is a piece") };
    assembling.write(&piece).unwrap();
    assembling.commit().unwrap();
    store.finish(assembling).unwrap();
}

/// What becomes of version 2, whose file is `file`, after version 1, while events come; the version in use after that.
async fn tried(file: &[u8]) -> (Result<(), (String, String)>, Option<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let trust = Arc::new(Trust::new(&config.downlink).unwrap());
    let (mut store, _) = Store::open(dir.path(), 1 << 30).unwrap();
    put(&mut store, &trust, 1, b"well");
    put(&mut store, &trust, 2, file);
    store.activate(&store.known(&name(), 1).unwrap()).unwrap();
    let inference = Inference::with(open, &config, &Metrics::default());
    inference.believe(Arc::new(start::Known(store.proofs())));
    inference.set(&config).await;
    let hands = Hands {
        store: Shared::new(store),
        hooks: BTreeMap::new(),
        rate: NO_LIMIT,
        progress: watch::channel(Progress::default()).0,
        others: watch::channel(false).0,
        trust: watch::channel(trust).1,
        inference: inference.clone(),
        publisher: Arc::new(Nobody),
    };
    let events = async {
        for n in 0.. {
            let event = Event { data: "{\"a\":1}".into(), ..sample(&n.to_string()) };
            inference.begin(vec![event]).finish().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let steps = async {
        let assigned = ModelAssigned {
            name: name(),
            version: 2,
            digest: crate::downlink::artefact::Digest::of(b""),
            mode: Mode::Active,
        };
        let at = |step| Wanted { assigned: assigned.clone(), number: 1.into(), step };
        let ended = hands.clone().perform(at(Step::Trial), None, Default::default(), false).await;
        let Ended::Failing { reason, detail } = ended else { return Ok(()) };
        let step = Step::Reverting { reason: reason.to_owned(), detail: detail.clone() };
        let back = hands.clone().perform(at(step), None, Default::default(), false).await;
        assert!(matches!(back, Ended::Reverted));
        Err((reason.to_owned(), detail))
    };
    let result = tokio::select! {
        result = steps => result,
        () = events => unreachable!("events come for ever"),
    };
    let current = hands.store.with(|store| Ok(store.shelf(&name())?.active().current)).await.unwrap();
    (result, current)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_scores_nan_is_slow_crashes_or_is_none_is_taken_back_with_its_reason() {
    assert_eq!(tried(b"well too").await, (Ok(()), Some(2)));
    for (file, words) in [
        (&b"nan"[..], "no finite score for"),
        (b"slow", "no score within 100 ms (inference.latency_max) for"),
        (b"crashes", "no finite score for"),
        (b"broken", "it is no model"),
    ] {
        let (result, current) = tried(file).await;
        let (reason, detail) = result.unwrap_err();
        let said = String::from_utf8_lossy(file);
        assert!(reason == "unhealthy" && detail.contains(words), "{said}: {reason}: {detail}");
        assert_eq!(current, Some(1), "{said}");
    }
}
