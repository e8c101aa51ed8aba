//! A publisher that writes its frames by hand: libraries refuse to send what brokers carry.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use px::config::Broker;

use super::free_port;

/// Nothing takes that long on loopback.
const PATIENCE: Duration = Duration::from_secs(30);
const FRAME_END: u8 = 0xce;

/// One connection with one channel, whose publishes are confirmed one by one.
pub struct RawPublisher(TcpStream);

impl RawPublisher {
    pub fn new(broker: &Broker) -> Self {
        let url = &broker.urls[0];
        let stream = TcpStream::connect((url.host.as_str(), url.port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let mut raw = RawPublisher(stream);
        raw.0.write_all(b"AMQP\0\0\x09\x01").expect("written");
        raw.expect(10, 10);
        let login = format!("\0{}\0{}", url.user, url.password.expose());
        let start_ok = [long(b""), short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat();
        raw.method(0, [10, 11], &start_ok);
        raw.expect(10, 30);
        raw.method(0, [10, 31], &[0, 10, 0, 2, 0, 0, 0, 0]); // 131072 bytes, no heartbeat
        raw.method(0, [10, 40], &[short(url.vhost.as_bytes()), vec![0, 0]].concat());
        raw.expect(10, 41);
        raw.method(1, [20, 10], &[0]);
        raw.expect(20, 11);
        raw.method(1, [85, 10], &[0]);
        raw.expect(85, 11);
        raw
    }

    /// A transient fanout exchange of this name, from which this queue gets everything.
    pub fn fanout(&mut self, name: &[u8], queue: &str) {
        let declare = [vec![0, 0], short(name), short(b"fanout"), vec![0], long(b"")].concat();
        self.method(1, [40, 10], &declare);
        self.expect(40, 11);
        let bind = [
            vec![0, 0],
            short(queue.as_bytes()),
            short(name),
            short(b""),
            vec![0],
            long(b""),
        ]
        .concat();
        self.method(1, [50, 20], &bind);
        self.expect(50, 21);
    }

    /// Publishes one message and waits until the broker has it. Properties with their flags.
    pub fn publish(&mut self, exchange: &[u8], key: &[u8], properties: &[u8], body: &[u8]) {
        self.method(
            1,
            [60, 40],
            &[vec![0, 0], short(exchange), short(key), vec![0]].concat(),
        );
        let size = (body.len() as u64).to_be_bytes();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, properties].concat());
        self.frame(3, 1, body);
        self.expect(60, 80);
    }

    fn method(&mut self, channel: u16, [class, method]: [u16; 2], arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = (payload.len() as u32).to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat();
        self.0.write_all(&frame).expect("written");
    }

    /// The next frame is this method.
    #[track_caller]
    fn expect(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).expect("an answer");
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.0.read_exact(&mut payload).expect("the rest of it");
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!(payload[..4], wanted, "{}", payload.escape_ascii());
    }
}

/// A way to a broker on which its answers are spoilt: `@@` becomes two bytes that are no UTF-8. RabbitMQ takes no such
/// names itself; what other brokers and older ones have taken, it may still deliver. Lives as long as the process.
pub fn spoiling_proxy(broker: &Broker) -> Broker {
    let mut spoilt = broker.clone();
    let target = (broker.urls[0].host.clone(), broker.urls[0].port);
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("bind");
    spoilt.urls[0].host = "127.0.0.1".into();
    spoilt.urls[0].port = port;
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accept");
            let server = TcpStream::connect((target.0.as_str(), target.1)).expect("connect");
            let (mut from_client, mut to_server) =
                (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
            std::thread::spawn(move || {
                // It ends with either side, and so does the other direction.
                drop(std::io::copy(&mut from_client, &mut to_server));
                drop(to_server.shutdown(std::net::Shutdown::Both));
            });
            std::thread::spawn(move || spoil(server, client));
        }
    });
    spoilt
}

fn spoil(mut server: TcpStream, mut client: TcpStream) {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = server.read(&mut chunk) {
        kept.extend(&chunk[..count]);
        while let Some(at) = kept.windows(2).position(|two| two == b"@@") {
            kept[at..at + 2].copy_from_slice(b"\xe9\xff");
        }
        // The other half may be on its way.
        let whole = kept.len() - usize::from(kept.ends_with(b"@"));
        if client.write_all(&kept[..whole]).is_err() {
            break;
        }
        kept.drain(..whole);
    }
    drop(client.shutdown(std::net::Shutdown::Both));
}

/// Properties that are these headers, each a name and a value with its type.
pub fn raw_headers(fields: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let fields: Vec<u8> = fields
        .iter()
        .flat_map(|(name, value)| [short(name), value.clone()].concat())
        .collect();
    [vec![0x20, 0], long(&fields)].concat()
}

/// A text as a header's value.
pub fn raw_text(text: &[u8]) -> Vec<u8> {
    [vec![b'S'], long(text)].concat()
}

/// Properties that are this one short text; `bit` counts from the highest.
pub fn raw_property(bit: u16, text: &[u8]) -> Vec<u8> {
    [(1u16 << (15 - bit)).to_be_bytes().to_vec(), short(text)].concat()
}

/// A header's value of so many arrays within each other.
pub fn raw_nested(depth: usize) -> Vec<u8> {
    // From the inside out, written from its end.
    let mut reversed = vec![b'V'];
    for _ in 0..depth {
        let size = (reversed.len() as u32).to_le_bytes();
        reversed.extend(size);
        reversed.push(b'A');
    }
    reversed.reverse();
    reversed
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}
