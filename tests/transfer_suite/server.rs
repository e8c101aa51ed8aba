//! A small HTTP server that misbehaves by path, like the servers px meets in the field.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What `/ok` and most others send.
pub const BODY: &[u8; 1000] = &[b'x'; 1000];

/// One request as it arrived; header names in lower case.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// Runs as long as the test's runtime.
pub struct Server {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let noted = asked.clone();
        tokio::spawn(async move {
            // A server without descriptors left waits; the tests that take them away look at the client.
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noted.clone()));
            }
        });
        Server { port, asked }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn head(status: &str, length: Option<usize>, extra: &str) -> Vec<u8> {
    let length = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
    format!("HTTP/1.1 {status}\r\n{extra}{length}\r\n").into_bytes()
}

fn whole(status: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    [&head(status, Some(body.len()), extra), body].concat()
}

/// What the server does with the connection after it has sent what it has.
enum Then {
    GoOn,
    Close,
    Reset,
    Hang,
    Drip,
    Endless,
}

fn answer(path: &str, port: u16) -> (Vec<u8>, Then) {
    let redirect = |to: &str| (whole("302 Found", &format!("Location: {to}\r\n"), b""), Then::GoOn);
    if let Some(to) = path.strip_prefix("/to?") {
        return redirect(to);
    }
    match path {
        "/ok" => {
            let extra = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: \"v1\"\r\n";
            (whole("200 OK", extra, BODY), Then::GoOn)
        }
        "/large" => (whole("200 OK", "", &vec![b'l'; 3_000_000]), Then::GoOn),
        "/empty" => (whole("200 OK", "", b""), Then::GoOn),
        "/truncate" => ([&head("200 OK", Some(1000), ""), &BODY[..600]].concat(), Then::Close),
        "/reset" => ([&head("200 OK", Some(1000), ""), &BODY[..600]].concat(), Then::Reset),
        "/long" => ([&head("200 OK", Some(500), ""), &BODY[..]].concat(), Then::Close),
        "/nolength" => (
            [&head("200 OK", None, "Connection: close\r\n"), &BODY[..600]].concat(),
            Then::Close,
        ),
        "/endless" => (head("200 OK", None, "Connection: close\r\n"), Then::Endless),
        "/chunked" => {
            let chunks = [b"3e8\r\n", &BODY[..], b"\r\n0\r\n\r\n"].concat();
            (
                [head("200 OK", None, "Transfer-Encoding: chunked\r\n"), chunks].concat(),
                Then::GoOn,
            )
        }
        "/chunkcut" => {
            let chunks = [b"3e8\r\n", &BODY[..], b"\r\n"].concat();
            (
                [head("200 OK", None, "Transfer-Encoding: chunked\r\n"), chunks].concat(),
                Then::Close,
            )
        }
        "/stall" => ([&head("200 OK", Some(1000), ""), &BODY[..600]].concat(), Then::Hang),
        "/nothing" => (Vec::new(), Then::Hang),
        "/drip" => (head("200 OK", Some(20), ""), Then::Drip),
        "/garbage" => (b"\x00\xff not http\r\n\r\n".to_vec(), Then::Close),
        "/closeafter" => (whole("200 OK", "", BODY), Then::Close),
        "/500" => (whole("500 Oops", "", b""), Then::GoOn),
        "/503" => (whole("503 Busy", "Retry-After: 7\r\n", b""), Then::GoOn),
        "/429" => (
            whole("429 Slow", "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT\r\n", b""),
            Then::GoOn,
        ),
        "/401" => (whole("401 Who", "WWW-Authenticate: Basic realm=x\r\n", b""), Then::GoOn),
        "/dir/403" => (whole("403 No", "", b""), Then::GoOn),
        "/dir/ok" => (whole("200 OK", "", BODY), Then::GoOn),
        "/410" => (whole("410 Gone", "", b""), Then::GoOn),
        "/400" => (whole("400 Bad", "", b""), Then::GoOn),
        "/206" => (
            whole("206 Partial Content", "Content-Range: bytes 0-999/2000\r\n", BODY),
            Then::GoOn,
        ),
        "/loop" => redirect("/loop"),
        "/nowhere" => (whole("302 Found", "", b""), Then::GoOn),
        "/hop" => redirect(&format!("http://127.0.0.1:{port}/ok")),
        _ => (whole("404 Not Found", "", b"no such page"), Then::GoOn),
    }
}

/// What `/resume/…` sends, in parts: no two parts are alike.
pub fn varied() -> Vec<u8> {
    (0..1000).map(|n| (n % 251) as u8).collect()
}

/// The first answer breaks off after 600 of 1000 bytes; the `nth` after that depends on the path.
fn resumed(request: &Asked, nth: usize) -> (Vec<u8>, Then) {
    let (body, path) = (varied(), request.path.as_str());
    let version = match path {
        "/resume/time" => "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nDate: Wed, 21 Oct 2015 07:29:00 GMT\r\n",
        "/resume/fresh" => "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nDate: Wed, 21 Oct 2015 07:28:00 GMT\r\n",
        "/resume/weak" => "ETag: W/\"v1\"\r\n",
        _ => "ETag: \"v1\"\r\n",
    };
    let range = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes="));
    let Some(from) = range.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok()) else {
        return match (path, nth) {
            ("/resume/206wrong" | "/resume/416", 1..) => (whole("200 OK", version, &body), Then::GoOn),
            ("/resume/chunkcut", _) => {
                let chunk = [b"258\r\n", &body[..600], b"\r\n"].concat();
                let head = head("200 OK", None, &format!("Transfer-Encoding: chunked\r\n{version}"));
                ([head, chunk].concat(), Then::Close)
            }
            (_, _) => {
                let end = if path == "/resume/slowly" { 100 } else { 600 };
                let then = match path {
                    "/resume/reset" => Then::Reset,
                    "/resume/stall" => Then::Hang,
                    _ => Then::Close,
                };
                ([&head("200 OK", Some(1000), version), &body[..end]].concat(), then)
            }
        };
    };
    let part = |first: usize, end: usize| {
        let range = format!("{version}Content-Range: bytes {first}-999/1000\r\n");
        [
            &head("206 Partial Content", Some(1000 - first), &range),
            &body[first..end],
        ]
        .concat()
    };
    match path {
        "/resume/badrange" => (whole("200 OK", version, &body), Then::GoOn),
        "/resume/changed" => (whole("200 OK", "ETag: \"v2\"\r\n", b"another version"), Then::GoOn),
        "/resume/206wrong" => (part(0, 1000), Then::GoOn),
        "/resume/416" => (whole("416 No", "Content-Range: bytes */1000\r\n", b""), Then::GoOn),
        "/resume/slowly" => (part(from, from + 100), Then::Close),
        "/resume/stuck" => (part(from, from), Then::Close),
        "/resume/gone" => (whole("404 Gone", "", b""), Then::GoOn),
        _ => (part(from, 1000), Then::GoOn),
    }
}

async fn serve(stream: TcpStream, asked: Arc<Mutex<Vec<Asked>>>) {
    let port = stream.local_addr().unwrap().port();
    let mut stream = BufReader::new(stream);
    // A client that goes away in the middle is part of what is tested.
    while let Some(request) = read_request(&mut stream).await {
        let nth = asked
            .lock()
            .unwrap()
            .iter()
            .filter(|asked| asked.path == request.path)
            .count();
        let (bytes, then) = match request.path.starts_with("/resume/") {
            true => resumed(&request, nth),
            false => answer(&request.path, port),
        };
        asked.lock().unwrap().push(request);
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        match then {
            Then::GoOn => {}
            Then::Close => return,
            Then::Reset => {
                let linger = Some(Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(stream.get_ref(), linger).unwrap();
                return;
            }
            Then::Hang => std::future::pending().await,
            Then::Drip => {
                let mut ticks = tokio::time::interval(Duration::from_millis(60));
                for _ in 0..20 {
                    ticks.tick().await;
                    if stream.write_all(b"x").await.is_err() {
                        return;
                    }
                }
            }
            Then::Endless => while stream.write_all(&[b'e'; 65536]).await.is_ok() {},
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let header = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    };
    Some(Asked {
        path,
        headers: lines.iter().skip(1).filter_map(header).collect(),
    })
}
