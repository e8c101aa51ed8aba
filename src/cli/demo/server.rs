//! The demo's file server: HTTP/1.1, GET and HEAD, regular files beneath one directory. For the demo alone.
//!
//! It listens on a free port of 127.0.0.1, says which on standard output, and ends when its standard input does: so it
//! never outlives whoever started it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use percent_encoding::percent_decode;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Request line and headers together.
const HEAD_BYTES_MAX: u64 = 16 << 10;
const CONNECTIONS_MAX: usize = 64;
/// Of silence, in both directions.
const IDLE: Duration = Duration::from_secs(30);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Serves until standard input ends.
pub fn serve(root: &Path) -> anyhow::Result<()> {
    let root = Arc::new(open_root(root)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port()).and_then(|()| out.flush())?;
    std::thread::spawn(|| {
        // Ends with the file or with an error: both mean that whoever started this has gone.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        std::process::exit(0);
    });
    let connections = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(50)); // no descriptors left, perhaps
            continue;
        };
        let (root, connections) = (Arc::clone(&root), Arc::clone(&connections));
        let is_full = connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX;
        std::thread::spawn(move || {
            // A client that goes away in the middle has its own reasons.
            drop(if is_full {
                refuse(&stream, Status::UNAVAILABLE)
            } else {
                converse(&stream, &root)
            });
            connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn open_root(root: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).with_context(|| format!("cannot open {}", root.display()))
}

/// Answers one request after the other until either side has had enough.
fn converse(stream: &TcpStream, root: &OwnedFd) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let head = match read_head(&mut reader)? {
            Some(Ok(head)) => head,
            Some(Err(status)) => return refuse(stream, status),
            None => return Ok(()),
        };
        let request = match Request::parse(&head) {
            Ok(request) => request,
            Err(status) => return refuse(stream, status),
        };
        match open(root, &request.path) {
            Ok((file, size, modified)) => send(stream, &request, file, size, modified)?,
            Err(status) => {
                let connection = if request.keep_alive {
                    ""
                } else {
                    "Connection: close\r\n"
                };
                write_head(stream, status, &format!("Content-Length: 0\r\n{connection}"))?;
            }
        }
        if !request.keep_alive {
            return Ok(());
        }
    }
}

/// The bytes up to the empty line; `None` when the client has nothing more to ask.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>, Status>>> {
    let (mut head, mut limited) = (Vec::new(), reader.take(HEAD_BYTES_MAX));
    loop {
        let start = head.len();
        limited.read_until(b'\n', &mut head)?;
        match head.get(start..) {
            Some(b"\r\n" | b"\n") if start == 0 => head.clear(), // tolerated before a request
            Some(b"\r\n" | b"\n") => return Ok(Some(Ok(head))),
            Some([.., b'\n']) => {}
            _ if limited.limit() == 0 => return Ok(Some(Err(Status::HEAD_TOO_LARGE))),
            _ => return Ok(None), // it has hung up; half a request asks for nothing
        }
    }
}

/// A status line's code and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status(u16, &'static str);

impl Status {
    const OK: Status = Status(200, "OK");
    const BAD: Status = Status(400, "Bad Request");
    const FORBIDDEN: Status = Status(403, "Forbidden");
    const NOT_FOUND: Status = Status(404, "Not Found");
    const BAD_METHOD: Status = Status(405, "Method Not Allowed");
    const HEAD_TOO_LARGE: Status = Status(431, "Request Header Fields Too Large");
    const BROKEN: Status = Status(500, "Internal Server Error");
    const UNAVAILABLE: Status = Status(503, "Service Unavailable");
    const BAD_VERSION: Status = Status(505, "HTTP Version Not Supported");
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    wants_body: bool,
    /// Decoded, without the slash at its beginning.
    path: Vec<u8>,
    keep_alive: bool,
}

impl Request {
    /// Valid: `GET /db/a%3AURP HTTP/1.1` with a `Host`; invalid: the same without one, or with a body.
    fn parse(head: &[u8]) -> Result<Request, Status> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let mut lines = lines.by_ref().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = lines.next().unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let [method, target, version] = words[..] else {
            return Err(Status::BAD);
        };
        let is_modern = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ if version.starts_with(b"HTTP/") => return Err(Status::BAD_VERSION),
            _ => return Err(Status::BAD),
        };
        let (mut hosts, mut keep_alive) = (0, is_modern);
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = header(line).ok_or(Status::BAD)?;
            match name.as_str() {
                "host" => hosts += 1,
                "transfer-encoding" => return Err(Status::BAD), // no request that is answered here has a body
                "content-length" if value != "0" => return Err(Status::BAD),
                "connection" => {
                    for option in value.split(',').map(str::trim) {
                        keep_alive = match option {
                            "close" => false,
                            "keep-alive" => keep_alive || !is_modern,
                            _ => keep_alive,
                        };
                    }
                }
                _ => {}
            }
        }
        if hosts > 1 || (is_modern && hosts == 0) {
            return Err(Status::BAD);
        }
        let wants_body = match method {
            b"GET" => true,
            b"HEAD" => false,
            _ => return Err(Status::BAD_METHOD),
        };
        Ok(Request {
            wants_body,
            path: path_of(target).ok_or(Status::BAD)?,
            keep_alive,
        })
    }
}

/// A header's name and value in lower case. A continued line and a blank before the colon are refused.
fn header(line: &[u8]) -> Option<(String, String)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_token = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
    let lower = |text: &[u8]| String::from_utf8_lossy(text).trim().to_ascii_lowercase();
    is_token.then(|| (lower(name), lower(value)))
}

/// The path in a request target, which may be a whole URL.
fn path_of(target: &[u8]) -> Option<Vec<u8>> {
    let target = match target.strip_prefix(b"http://") {
        Some(rest) => &rest[rest.iter().position(|byte| *byte == b'/')?..],
        None => target,
    };
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let path = target[..end].strip_prefix(b"/")?;
    Some(percent_decode(path).collect())
}

/// A regular file beneath the root, its size and when it was modified.
fn open(root: &OwnedFd, path: &[u8]) -> Result<(File, u64, Timestamp), Status> {
    // NONBLOCK: a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), BENEATH).map_err(refusal)?;
    let stat = rustix::fs::fstat(&fd).map_err(refusal)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Status::NOT_FOUND);
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let modified = Timestamp::from_second(stat.st_mtime).unwrap_or_default();
    Ok((fd.into(), size, modified))
}

fn refusal(errno: Errno) -> Status {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::NAMETOOLONG => Status::NOT_FOUND,
        Errno::XDEV | Errno::LOOP | Errno::NXIO => Status::NOT_FOUND, // out of the root, or no file
        Errno::ACCESS | Errno::PERM => Status::FORBIDDEN,
        Errno::MFILE | Errno::NFILE => Status::UNAVAILABLE,
        _ => Status::BROKEN,
    }
}

/// The head and as many bytes as it promises; a file that has shrunk ends the connection instead.
fn send(stream: &TcpStream, request: &Request, file: File, size: u64, modified: Timestamp) -> io::Result<()> {
    let connection = if request.keep_alive {
        ""
    } else {
        "Connection: close\r\n"
    };
    let headers = format!(
        "Content-Type: application/octet-stream\r\nContent-Length: {size}\r\nLast-Modified: {}\r\n{connection}",
        http_date(modified)
    );
    write_head(stream, Status::OK, &headers)?;
    if request.wants_body && io::copy(&mut file.take(size), &mut &*stream)? < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Says no and ends the connection: what follows a request that was not understood is not understood either.
fn refuse(stream: &TcpStream, status: Status) -> io::Result<()> {
    write_head(stream, status, "Content-Length: 0\r\nConnection: close\r\n")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Bytes that nobody read would turn the close into a reset, and the answer would be lost.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut stream.take(1 << 20), &mut io::sink()).map(drop)
}

fn write_head(mut stream: &TcpStream, status: Status, headers: &str) -> io::Result<()> {
    let Status(code, words) = status;
    let allow = if status == Status::BAD_METHOD {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    let date = http_date(Timestamp::now());
    let head = format!("HTTP/1.1 {code} {words}\r\nDate: {date}\r\n{allow}{headers}\r\n");
    stream.write_all(head.as_bytes())
}

/// `Fri, 31 Dec 1999 23:59:59 GMT`
fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client that says all this and hangs up gets to read.
    fn ask(root: &Path, said: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let root = open_root(root).unwrap();
        let server = std::thread::spawn(move || drop(converse(&stream, &root)));
        client.write_all(said).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        server.join().unwrap();
        String::from_utf8_lossy(&heard).into_owned()
    }

    fn site() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("www/db")).unwrap();
        std::fs::write(dir.path().join("www/db/a,~:URP"), "eleven byte").unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("www/link")).unwrap();
        dir
    }

    #[test]
    fn one_connection_answers_many_requests() {
        let dir = site();
        let said = b"GET /db/a,~%3AURP HTTP/1.1\r\nHost: h\r\n\r\nHEAD /db/a,~:URP HTTP/1.1\r\nHost: h\r\n\r\n\
                     GET /none HTTP/1.1\r\nHost: h\r\n\r\nGET http://h/db/a,~:URP?q HTTP/1.1\r\nHost: h\r\n\
                     Connection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n";
        let heard = ask(&dir.path().join("www"), said);
        let codes: Vec<&str> = heard
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| &heard[at + 9..at + 12])
            .collect();
        assert_eq!(codes, ["200", "200", "404", "200"], "{heard}");
        assert_eq!(heard.matches("eleven byte").count(), 2);
        assert_eq!(heard.matches("Content-Length: 11\r\n").count(), 3);
    }

    #[test]
    fn nothing_outside_the_root_is_served() {
        let dir = site();
        for path in [
            "/../secret",
            "/db/../../secret",
            "/%2e%2e/secret",
            "//etc/hostname",
            "/link",
            "/db",
            "/",
            "/a%00",
        ] {
            let heard = ask(
                &dir.path().join("www"),
                format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(),
            );
            assert!(
                heard.starts_with("HTTP/1.1 404 ") && !heard.contains("s3cret"),
                "{path}: {heard}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let dir = site();
        let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(20_000));
        let table: [(&str, u16); 9] = [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (&long, 431),
        ];
        for (said, code) in table {
            let heard = ask(dir.path(), said.as_bytes());
            assert!(heard.starts_with(&format!("HTTP/1.1 {code} ")), "{said:.60}: {heard}");
            assert!(heard.contains("Connection: close"));
        }
        assert_eq!(ask(dir.path(), b"GET / HTT"), "");
        let old = ask(
            &dir.path().join("www"),
            b"GET /db/a,~:URP HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        );
        assert_eq!(old.matches("HTTP/1.1 ").count(), 1, "{old}");
    }
}
