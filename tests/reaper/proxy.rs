//! Stands between the reaper and the management API, and holds up or refuses single requests: what happens meanwhile is
//! then no matter of luck.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a request, by its first line.
pub enum Fate {
    Pass,
    /// It waits for [`Proxy::release`].
    Hold,
    /// The answer, without the broker.
    Refuse(u16),
}

type Judge = dyn Fn(&str) -> Fate + Send + Sync;

pub struct Proxy {
    address: String,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    /// The first lines of those that wait or have waited.
    requests: Vec<String>,
    is_open: bool,
}

impl Proxy {
    /// In front of `http://HOST:PORT`.
    pub fn start(upstream: &str, judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (upstream, judge) = (upstream.trim_start_matches("http://").to_owned(), Arc::new(judge));
        let gate = Arc::new(Gate::default());
        let keeper = gate.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&upstream).expect("the broker's management API");
                let back = (
                    server.try_clone().expect("a socket"),
                    client.try_clone().expect("a socket"),
                );
                std::thread::spawn(move || drop(pump(back.0, back.1)));
                let (judge, gate): (Arc<Judge>, _) = (judge.clone(), keeper.clone());
                std::thread::spawn(move || drop(forward(client, server, &*judge, &gate)));
            }
        });
        Proxy { address, gate }
    }

    pub fn url(&self) -> &str {
        &self.address
    }

    /// Waits until a request is held; its first line.
    #[track_caller]
    pub fn wait_held(&self) -> String {
        let held = self.gate.held.lock().expect("gate");
        let none = |held: &mut Held| held.requests.is_empty();
        let (held, timeout) = self
            .gate
            .changed
            .wait_timeout_while(held, PATIENCE, none)
            .expect("gate");
        assert!(!timeout.timed_out(), "no request was held");
        held.requests[0].clone()
    }

    /// Lets those that are held, and all that follow, pass.
    pub fn release(&self) {
        self.gate.held.lock().expect("gate").is_open = true;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    fn hold(&self, request: &str) {
        let mut held = self.held.lock().expect("gate");
        if held.is_open {
            return;
        }
        held.requests.push(request.to_owned());
        self.changed.notify_all();
        // A test that has failed releases nothing, and then nobody waits for this any more.
        drop(self.changed.wait_timeout_while(held, PATIENCE, |held| !held.is_open));
    }
}

/// What the reaper asks: a request without a body begins each piece that it sends.
fn forward(mut client: TcpStream, mut server: TcpStream, judge: &Judge, gate: &Gate) -> std::io::Result<()> {
    let mut piece = [0; 65_536];
    loop {
        let length = client.read(&mut piece)?;
        if length == 0 {
            return server.shutdown(Shutdown::Write);
        }
        let text = String::from_utf8_lossy(&piece[..length]);
        let first = text.lines().next().unwrap_or_default();
        match judge(first) {
            Fate::Pass => {}
            Fate::Hold => gate.hold(first),
            Fate::Refuse(status) => {
                write!(client, "HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\n{{}}")?;
                continue;
            }
        }
        server.write_all(&piece[..length])?;
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
