//! An HTTP server of products, as good or as bad as a test wants it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::free_port;

/// A held answer goes on by itself after this long, so that a failed test ends.
const HELD_MAX: Duration = Duration::from_secs(600);

/// How a path is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 200 and these bytes.
    Bytes(Vec<u8>),
    /// This status, these headers, no body.
    Status(u16, Vec<(&'static str, String)>),
    /// The head and half of these bytes; the other half after `release`.
    Held(Vec<u8>),
    /// Half of these bytes, then the end.
    Cut(Vec<u8>),
}

impl Answer {
    pub fn status(code: u16) -> Self {
        Answer::Status(code, Vec::new())
    }

    pub fn redirect(to: &str) -> Self {
        Answer::Status(302, vec![("Location", to.to_owned())])
    }
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    hits: Mutex<HashMap<String, Vec<Instant>>>,
    released: Mutex<bool>,
    release: Condvar,
    stop: AtomicBool,
}

/// Answers one request per connection. What it was not told of is a 404.
pub struct ProductServer {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl ProductServer {
    /// On a free port of 127.0.0.1.
    pub fn start() -> Self {
        let mut server = Self::closed();
        server.open();
        server
    }

    /// Nobody listens yet: connections are refused.
    pub fn closed() -> Self {
        ProductServer {
            port: free_port(),
            shared: Arc::default(),
            listening: None,
        }
    }

    /// Listens.
    pub fn open(&mut self) {
        assert!(self.listening.is_none(), "it listens");
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("bind");
        let shared = Arc::clone(&self.shared);
        shared.stop.store(false, Ordering::SeqCst);
        self.listening = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A client that hangs up has its reasons.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        }));
    }

    /// Refuses connections from now on.
    pub fn close(&mut self) {
        if let Some(listening) = self.listening.take() {
            self.shared.stop.store(true, Ordering::SeqCst);
            // Wakes the listener; when it cannot be reached it has ended.
            drop(TcpStream::connect(("127.0.0.1", self.port)));
            listening.join().expect("the listener ends");
        }
    }

    /// `http://127.0.0.1:PORT/`
    pub fn url(&self) -> String {
        format!("http://{}/", self.authority())
    }

    /// `127.0.0.1:PORT`
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on this path (no leading slash) is answered so.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.shared
            .answers
            .lock()
            .expect("whole")
            .insert(format!("/{path}"), answer);
    }

    /// A product.
    pub fn serve(&self, path: &str, bytes: &[u8]) {
        self.answer(path, Answer::Bytes(bytes.to_vec()));
    }

    /// Held answers go on, and later ones are not held.
    pub fn release(&self) {
        *self.shared.released.lock().expect("whole") = true;
        self.shared.release.notify_all();
    }

    /// When this path was asked for.
    pub fn hits(&self, path: &str) -> Vec<Instant> {
        let hits = self.shared.hits.lock().expect("whole");
        hits.get(&format!("/{path}")).cloned().unwrap_or_default()
    }

    /// Requests for anything.
    pub fn hits_of_all(&self) -> usize {
        self.shared.hits.lock().expect("whole").values().map(Vec::len).sum()
    }
}

impl Drop for ProductServer {
    fn drop(&mut self) {
        self.release();
        self.close();
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let answer = self.answers.lock().expect("whole").get(&path).cloned();
        let noted = Instant::now();
        self.hits.lock().expect("whole").entry(path).or_default().push(noted);
        match answer.unwrap_or(Answer::status(404)) {
            Answer::Bytes(bytes) => {
                stream.write_all(&head(200, bytes.len(), &[]))?;
                stream.write_all(&bytes)
            }
            Answer::Status(code, headers) => stream.write_all(&head(code, 0, &headers)),
            Answer::Cut(bytes) => {
                stream.write_all(&head(200, bytes.len(), &[]))?;
                stream.write_all(&bytes[..bytes.len() / 2])
            }
            Answer::Held(bytes) => {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                stream.write_all(&head(200, bytes.len(), &[]))?;
                stream.write_all(first)?;
                let released = self.released.lock().expect("whole");
                drop(
                    self.release
                        .wait_timeout_while(released, HELD_MAX, |released| !*released),
                );
                stream.write_all(second)
            }
        }
    }
}

fn head(code: u16, length: usize, headers: &[(&'static str, String)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {code} Told\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}
