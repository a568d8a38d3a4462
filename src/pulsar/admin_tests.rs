//! Tests of the admin interface: addresses, answers, errors and what to do about them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::*;
use crate::config::edge::Secret;
use crate::pulsar::admin_error::Class;
use crate::sys::tasks;

/// Answers one request per text, in order, each on its own connection; returns what was asked.
fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let here = url.clone();
    let answer = move |text: String| {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.into_inner().write_all(text.replace("HERE", &here).as_bytes()).unwrap();
        head + &String::from_utf8(body).unwrap()
    };
    (url, tasks::thread("server", move || answers.into_iter().map(answer).collect()).unwrap())
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn with_token() -> Credentials {
    Credentials::Token(Secret::new("s3cret\n"))
}

#[test]
fn a_redirected_change_keeps_method_body_and_token() {
    let (url, server) = serve(vec![
        answer("307 Temporary Redirect", "Location: HERE/admin/v2/x?authoritative=true\r\n", ""),
        answer("204 No Content", "", ""),
    ]);
    let change = Change { verb: Verb::Put, path: "x".into(), body: Some(serde_json::json!({ "a": 1 })) };
    assert_eq!(Admin::new(&url, &with_token(), None).unwrap().change(&change).unwrap(), Changed::Done);
    let asked = server.join().unwrap();
    assert!(asked[0].starts_with("PUT /admin/v2/x HTTP"), "{}", asked[0]);
    assert!(asked[1].starts_with("PUT /admin/v2/x?authoritative=true HTTP"), "{}", asked[1]);
    for request in asked {
        assert!(request.to_lowercase().contains("authorization: bearer s3cret\r\n"), "{request}");
        assert!(request.ends_with(r#"{"a":1}"#), "{request}");
    }
}

#[test]
fn redirects_end_and_never_leave_https() {
    let (url, server) =
        serve(vec![answer("307 Temporary Redirect", "Location: HERE/again\r\n", ""); REDIRECTS_MAX + 1]);
    let error = Admin::new(&url, &Credentials::None, None).unwrap().get::<Value>("x").unwrap_err();
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert_eq!(server.join().unwrap().len(), REDIRECTS_MAX + 1);

    assert!(follow("https://a/x", "http://b/x").unwrap_err().to_string().contains("show the token"));
    assert_eq!(follow("https://a/x", "https://b/x").unwrap(), "https://b/x");
    assert!(follow("http://a/x", "/x").is_err());
}

#[test]
fn answers_are_told_apart() {
    let missing = answer("404 Not Found", "", r#"{"reason":"Tenant does not exist"}"#);
    let html = answer("404 Not Found", "", "<html>");
    let busy = answer("503 Service Unavailable", "", r#"{"reason":"try \u001b[31mlater"}"#);
    let odd = answer("200 OK", "", "<html>");
    let (url, server) = serve(vec![missing, html, busy, odd, answer("409 Conflict", "", ""), answer("200 OK", "", "")]);
    let admin = Admin::new(&url, &Credentials::None, None).unwrap();
    assert_eq!(admin.get::<Value>("x").unwrap(), None);
    let error = admin.get::<Value>("x").unwrap_err();
    assert!(error.to_string().contains("not Pulsar's admin interface"), "{error}");
    let error = admin.get::<Value>("x").unwrap_err();
    assert!(error.to_string().contains("HTTP 503: try [31mlater;"), "no escape sequence may reach a terminal: {error}");
    assert_eq!(error.class(), Class::Retry);
    assert_eq!(admin.get::<Vec<String>>("x").unwrap_err().class(), Class::Fatal);
    let change = Change { verb: Verb::Post, path: "x".into(), body: None };
    assert_eq!(admin.change(&change).unwrap(), Changed::WasThere);
    assert_eq!(admin.get::<Option<bool>>("x").unwrap(), Some(None));
    server.join().unwrap();
}

#[test]
fn an_answer_without_end_is_cut() {
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", " ".repeat(ANSWER_BYTES_MAX as usize + 2));
    let (url, server) = serve(vec![endless]);
    assert!(Admin::new(&url, &Credentials::None, None).unwrap().get::<Value>("x").is_err());
    drop(server); // its write may fail: we hang up
}

#[test]
fn urls_tokens_and_authorities_are_checked_before_any_request() {
    for bad in
        ["pulsar://a:6650", "pulsar+ssl://a:6651", "a:8080", "", "http://user:word@a", "http://a?x=1", "http://a b"]
    {
        let error = Admin::new(bad, &Credentials::None, None).unwrap_err();
        assert!(error.to_string().contains(bad), "{error}");
        assert_eq!(error.class(), Class::Refuse);
    }
    assert_eq!(Admin::new("http://a:1/admin/v2/", &Credentials::None, None).unwrap().url(), "http://a:1");

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let token = |token_file| Admin::new("http://a", &Credentials::File(token_file), None);
    for (name, text) in [("empty", " \n"), ("long", &"x".repeat(TOKEN_BYTES_MAX + 1)), ("odd", "se\ncret")] {
        let error = token(file(name, text)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("pulsar.token_file") && !error.contains("cret"), "{error}");
    }
    assert!(token(dir.path().join("absent")).is_err());
    assert!(!format!("{:?}", token(file("good", "s3cret\n")).unwrap()).contains("s3cret"));

    let ca = |ca_file: PathBuf| Admin::new("https://a", &Credentials::None, Some(&ca_file));
    for (name, text) in
        [("none", "hello"), ("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
    {
        let error = ca(file(name, text)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("pulsar.ca_file"), "{error}");
    }
}

#[test]
fn an_unknown_host_is_said_to_be_one() {
    let error = std::io::Error::other("failed to lookup address information: Name or service not known");
    let error = transport("http://a", &ureq::Error::Io(error));
    assert!(error.to_string().contains("the host name is not known"), "{error}");
    assert!(error.to_string().contains("DNS"), "{error}");
    assert_eq!(error.class(), Class::Retry);
}
