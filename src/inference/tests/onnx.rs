//! Against real models: those of `tests/models`, made by the script there.

use serde_json::Value;

use super::switch::under_load;
use super::*;
use crate::inference::engine::{self, BUILT_IN};

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new("tests/models").join(name)).unwrap()
}

fn shape(columns: usize) -> Shape {
    Shape { columns, output: None, column: None }
}

fn open(name: &str, shape: &Shape) -> Result<Box<dyn Engine>, String> {
    BUILT_IN(&file(name), shape)
}

fn refused(name: &str, shape: &Shape) -> String {
    match open(name, shape).and_then(|mut engine| engine.run(&vec![0.0; shape.columns], 1)) {
        Ok(scores) => panic!("{name} gives {scores:?}"),
        Err(reason) => reason,
    }
}

#[test]
fn a_model_gives_the_same_scores_alone_and_in_batches() {
    for name in ["sum.onnx", "one-row.onnx"] {
        let mut model = open(name, &shape(2)).unwrap();
        for count in [1, 2, 3, 64, 1] {
            let rows: Vec<f32> = (0..count * 2).map(|i| i as f32).collect();
            let expected: Vec<f32> = rows.chunks(2).map(|row| row[0] + row[1]).collect();
            assert_eq!(engine::run(model.as_mut(), &rows, count), Ok(expected), "{name}");
        }
    }
}

#[test]
fn scores_are_those_of_scikit_learn() {
    let expected: Value = serde_json::from_slice(&file("expected.json")).unwrap();
    let numbers = |value: &Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    };
    let rows: Vec<f32> = expected["rows"].as_array().unwrap().iter().flat_map(numbers).collect();
    for name in ["forest", "network"] {
        let shape = Shape { columns: 2, output: Some("probabilities".to_owned()), column: Some(1) };
        let mut model = open(&format!("{name}.onnx"), &shape).unwrap();
        let scores = engine::run(model.as_mut(), &rows, rows.len() / 2).unwrap();
        for (score, expected) in scores.iter().zip(numbers(&expected[name])) {
            assert!((score - expected).abs() < 1e-5, "{name}: {score} instead of {expected}");
        }
    }
}

#[test]
fn what_does_not_fit_the_configuration_is_refused_with_its_reason() {
    assert!(refused("sum.onnx", &shape(3)).contains("2 columns"), "{}", refused("sum.onnx", &shape(3)));
    let output = |name: &str| Shape { output: Some(name.to_owned()), ..shape(2) };
    assert!(!refused("sum.onnx", &output("nothing")).is_empty());
    let column = Shape { column: Some(1), ..shape(2) };
    assert!(refused("sum.onnx", &column).contains("column"), "{}", refused("sum.onnx", &column));
}

#[test]
fn no_bytes_bring_the_loader_down() {
    let good = file("forest.onnx");
    assert!(BUILT_IN(b"", &shape(2)).is_err());
    for cut in (0..good.len()).step_by(97) {
        // Some of them are models that end early: what matters is that there is an answer.
        let _ = BUILT_IN(&good[..cut], &shape(2)).map(|mut model| model.run(&[0.0, 0.0], 1));
    }
}

#[tokio::test]
async fn numbers_that_are_none_are_no_scores() {
    let site = Site::with(BUILT_IN, vec![anomaly()]);
    site.switch("current", 1, &file("log.onnx"));
    site.set().await;
    for (a, scored) in [(2.0, true), (-3.0, false), (0.0, false)] {
        assert_eq!(attribute(&site.score_one(a, 0.0).await, SCORE).is_some(), scored, "log {a}");
    }
    assert_eq!(site.unscored("active", "not-finite"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_models_are_switched_under_load() {
    let config = Config { output: Some("probabilities".to_owned()), column: Some(1), ..anomaly() };
    let site = Site::with(BUILT_IN, vec![config]);
    let of = |n| file(if n % 2 == 0 { "network.onnx" } else { "forest.onnx" });
    let report = under_load(&site, &of, 2.0, 1000.0).await;
    assert_eq!(report.unscored, 0);
    assert!(report.versions.len() >= 2, "{:?}", report.versions);
}
